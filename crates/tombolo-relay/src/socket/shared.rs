//! Numbers in memory that the kernel's programs read too.

use std::{
    io,
    ops::Deref,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::{self, NonNull},
    sync::atomic::AtomicU16,
};

/// The contents of an eBPF array, as a slice that this process and the kernel share.
pub(crate) struct SharedNumbers {
    start: NonNull<AtomicU16>,
    count: usize,
}

// SAFETY: the memory is shared from the start, and only accessed atomically.
unsafe impl Send for SharedNumbers {}
// SAFETY: as above.
unsafe impl Sync for SharedNumbers {}

impl SharedNumbers {
    /// Maps the first `count` numbers of an array that was made to be mapped.
    ///
    /// # Errors
    /// The kernel's; also if the array is shorter.
    pub(crate) fn map(array: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        // SAFETY: the kernel chooses a place that nobody uses, and checks length and rights.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                count * size_of::<AtomicU16>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                array.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, count })
    }
}

impl Deref for SharedNumbers {
    type Target = [AtomicU16];

    fn deref(&self) -> &[AtomicU16] {
        // SAFETY: so many numbers are mapped as long as `self` lives, aligned to a page, and any bytes
        // make a number.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl Drop for SharedNumbers {
    fn drop(&mut self) {
        let bytes = self.count * size_of::<AtomicU16>();
        // SAFETY: this is what `map` mapped, and nobody borrows it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), bytes) };
    }
}
