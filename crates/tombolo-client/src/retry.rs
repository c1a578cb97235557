//! Asking again for what may succeed later.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;

/// How long is asked again for what was on its way when the session was lost.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a device that has lost its session asks for its places again: for longer than a cluster that
/// has lost nodes needs to be itself again.
const COME_BACK_WITHIN: Duration = Duration::from_secs(60);

/// Asks again, for a while, when the node cannot be reached or has forgotten the question.
pub(crate) async fn patiently<T, F: Future<Output = Result<T, Error>>>(
    attempt: impl FnMut() -> F,
) -> Result<T, Error> {
    ask_within(PATIENCE, Error::is_unreachable, attempt).await
}

/// Asks again, for a while, whatever stands in the way, unless it will stay there.
pub(crate) async fn persistently<T, F: Future<Output = Result<T, Error>>>(
    attempt: impl FnMut() -> F,
) -> Result<T, Error> {
    ask_within(COME_BACK_WITHIN, Error::is_temporary, attempt).await
}

async fn ask_within<T, F: Future<Output = Result<T, Error>>>(
    patience: Duration,
    is_passing: impl Fn(&Error) -> bool,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Error> {
    let end = Instant::now() + patience;
    loop {
        match attempt().await {
            Err(error) if is_passing(&error) && Instant::now() < end => {
                tokio::time::sleep(error.retry_after().unwrap_or_default()).await;
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tombolo_wire::v1::ErrorCode;

    use super::*;

    fn refused(code: ErrorCode) -> Error {
        Error::refused(code.into(), "the test says so")
    }

    #[tokio::test(start_paused = true)]
    async fn what_stays_refused_for_the_time_being_is_given_up_in_the_end() {
        let (begun, asked) = (Instant::now(), Cell::new(0));
        let result = persistently(async || {
            asked.set(asked.get() + 1);
            Err::<(), _>(refused(ErrorCode::Unavailable))
        });
        let error = result.await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::Unavailable));
        assert_eq!(begun.elapsed(), COME_BACK_WITHIN);
        assert_eq!(asked.get(), 121, "twice a second");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_for_good_is_not_asked_again() {
        for code in [ErrorCode::RoomFull, ErrorCode::Banned] {
            let mut answers = [ErrorCode::Limit, ErrorCode::Unavailable, code].into_iter();
            let result = persistently(|| {
                let answer = answers.next().expect("nobody asks after the last");
                std::future::ready(Err::<(), _>(refused(answer)))
            });
            assert_eq!(result.await.unwrap_err().code(), Some(code));
        }
    }
}
