//! Packets between allocations of two shards of the relay, which go from one to the other in memory.
//!
//! A batch's packets for one shard make one [`Parcel`]: one place in that shard's bounded queue, and one
//! wake-up. The shard that has opened it gives it back, so that its memory is used again.

use std::{ops::Range, sync::mpsc::Receiver, time::Instant};

use tombolo_turn::server::{Forward, PeerAddr, RelayAddr, ShardIndex};

use super::Shard;
use crate::link::FromStream;

/// Packets for another shard.
pub(crate) struct Parcel {
    /// The shard that packed it.
    home: ShardIndex,
    packets: Vec<Packed>,
    bytes: Vec<u8>,
}

struct Packed {
    at: RelayAddr,
    from: PeerAddr,
    /// Where it is among the bytes.
    range: Range<usize>,
}

/// Parcels in the making, at most one for each shard.
pub(super) struct Parcels {
    shard: ShardIndex,
    by_shard: Vec<Option<Parcel>>,
    spare: Receiver<Parcel>,
    is_empty: bool,
}

impl Parcels {
    pub(super) fn new(shard: ShardIndex, shards: usize, spare: Receiver<Parcel>) -> Self {
        Self {
            shard,
            by_shard: (0..shards).map(|_| None).collect(),
            spare,
            is_empty: true,
        }
    }

    /// Packs what came from `from`, a relayed address of this shard, to `at`, one of `shard`.
    pub(super) fn pack(&mut self, shard: ShardIndex, at: RelayAddr, from: PeerAddr, data: &[u8]) {
        let Some(place) = self.by_shard.get_mut(usize::from(shard.0)) else {
            return;
        };
        let parcel = place.get_or_insert_with(|| {
            self.spare.try_recv().unwrap_or_else(|_| Parcel {
                home: self.shard,
                packets: Vec::new(),
                bytes: Vec::new(),
            })
        });
        let start = parcel.bytes.len();
        parcel.bytes.extend_from_slice(data);
        let range = start..parcel.bytes.len();
        parcel.packets.push(Packed { at, from, range });
        self.is_empty = false;
    }
}

impl Shard {
    /// Sends the parcels of a batch. One may be lost, like datagrams, when its shard has too much to do.
    pub(super) fn send_parcels(&mut self) {
        if self.parcels.is_empty {
            return;
        }
        self.parcels.is_empty = true;
        for (place, link) in self.parcels.by_shard.iter_mut().zip(&*self.siblings) {
            let Some(parcel) = place.take() else { continue };
            let packets = parcel.packets.len() as u64;
            match link.pass_on(FromStream::Parcel(parcel)) {
                Ok(()) => self.io.handed_over += packets,
                Err(_) => self.io.handed_over_dropped += packets,
            }
        }
    }

    /// Handles what another shard has packed, and gives the parcel back.
    pub(super) fn open_parcel(&mut self, now: Instant, mut parcel: Parcel) {
        for packed in &parcel.packets {
            let data = &parcel.bytes[packed.range.clone()];
            let forward = self.core.handle_peer(now, packed.at, packed.from, data);
            if let Some(Forward::ToClient {
                to,
                header,
                range,
                padding,
            }) = forward
            {
                self.send_to_client(to, &header, &data[range], padding);
            }
        }
        parcel.packets.clear();
        parcel.bytes.clear();
        if parcel.bytes.capacity() <= KEPT_BYTES_MAX
            && let Some(home) = self.siblings.get(usize::from(parcel.home.0))
        {
            home.give_back(parcel);
        }
    }
}

/// Memory of a parcel that is kept for the next one.
const KEPT_BYTES_MAX: usize = 256 * 1024;
