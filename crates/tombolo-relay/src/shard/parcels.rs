//! Packets between allocations of two shards of the relay, which go from one to the other in memory.
//!
//! A batch's packets for one shard make one [`Parcel`]: one place in that shard's bounded queue, and one
//! wake-up. The shard that has opened it gives it back, so that its memory is used again.

use std::{ops::Range, sync::mpsc::Receiver, time::Instant};

use tombolo_turn::server::{Forward, PeerAddr, RelayAddr, ShardIndex};

use super::Shard;

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

impl Parcel {
    /// The memory that its packets take.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.packets.len() * size_of::<Packed>()
    }
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

    /// Packs what came from `from`, a relayed address of this shard, to `at`, one of `shard`; `false`
    /// if the parcel is too large for that.
    pub(super) fn pack(
        &mut self,
        shard: ShardIndex,
        at: RelayAddr,
        from: PeerAddr,
        data: &[u8],
    ) -> bool {
        let Some(place) = self.by_shard.get_mut(usize::from(shard.0)) else {
            return false;
        };
        let parcel = place.get_or_insert_with(|| {
            self.spare.try_recv().unwrap_or_else(|_| Parcel {
                home: self.shard,
                packets: Vec::new(),
                bytes: Vec::new(),
            })
        });
        let start = parcel.bytes.len();
        if start + data.len() > PARCEL_BYTES_MAX {
            return false;
        }
        parcel.bytes.extend_from_slice(data);
        let range = start..parcel.bytes.len();
        parcel.packets.push(Packed { at, from, range });
        self.is_empty = false;
        true
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
            match link.parcel(parcel) {
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
        if let Some(own) = self.siblings.get(usize::from(self.parcels.shard.0)) {
            own.opened(&parcel);
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
/// Bytes of packets in one parcel; what is more in one batch is lost.
const PARCEL_BYTES_MAX: usize = 2 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::{
        link::{FromStream, ShardLink},
        socket::Waker,
    };

    #[test]
    fn parcels_that_wait_for_a_shard_are_bounded_in_bytes_and_what_is_opened_makes_room() {
        let (link, mut inbox) = ShardLink::new(Waker::new().expect("eventfd is there"));
        let (_, spare) = sync_channel(1);
        let mut parcels = Parcels::new(ShardIndex(0), 2, spare);
        let mut waiting = 0;
        loop {
            let parcel = full(&mut parcels);
            let len = parcel.len();
            if link.parcel(parcel).is_err() {
                break;
            }
            waiting += len;
            assert!(waiting <= 16 * 1024 * 1024, "there is an end to it");
        }
        assert!(waiting >= PARCEL_BYTES_MAX, "one finds room");
        let Ok(FromStream::Parcel(first)) = inbox.frames.try_recv() else {
            panic!("it was taken");
        };
        link.opened(&first);
        assert!(link.parcel(full(&mut parcels)).is_ok());
    }

    #[test]
    fn a_parcel_holds_so_many_bytes_and_no_more() {
        let (_, spare) = sync_channel(1);
        let mut parcels = Parcels::new(ShardIndex(0), 2, spare);
        let parcel = full(&mut parcels);
        assert!(parcel.bytes.len() <= PARCEL_BYTES_MAX);
        assert!(parcel.bytes.len() > PARCEL_BYTES_MAX - PACKET.len());
    }

    /// A parcel for shard 1 that holds no more.
    fn full(parcels: &mut Parcels) -> Parcel {
        let address = "192.0.2.1:50000".parse().expect("a literal");
        let (at, from) = (RelayAddr(address), PeerAddr(address));
        while parcels.pack(ShardIndex(1), at, from, &PACKET) {}
        parcels.by_shard[1].take().expect("it was packed")
    }

    static PACKET: [u8; 60_000] = [7; 60_000];
}
