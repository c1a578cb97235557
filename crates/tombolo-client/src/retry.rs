//! Asking again for what may succeed later.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tombolo_wire::v1::{ErrorCode, request};

use crate::error::Error;
use crate::session::{Answer, Handle};

/// How long is asked again for what was on its way when the session was lost.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a device that has lost its session asks for its places again: for longer than a cluster that
/// has lost nodes needs to be itself again.
const COME_BACK_WITHIN: Duration = Duration::from_secs(60);
/// Between two times at which something is asked for under one name, as far as the error does not say it.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Asks again, for a while, for what can be asked for again, when the node cannot be reached, has forgotten the question or
/// does not know what became of it.
pub(crate) async fn patiently<T, F: Future<Output = Result<T, Error>>>(
    attempt: impl FnMut() -> F,
) -> Result<T, Error> {
    let may_help =
        |error: &Error| error.is_unreachable() || error.is_unsure() && !error.is_closed();
    ask_within(PATIENCE, may_help, attempt).await
}

/// Asks again, for a while, whatever stands in the way, unless it will stay there.
pub(crate) async fn persistently<T, F: Future<Output = Result<T, Error>>>(
    attempt: impl FnMut() -> F,
) -> Result<T, Error> {
    persistently_for(COME_BACK_WITHIN, attempt).await
}

/// The same, for another while.
pub(crate) async fn persistently_for<T, F: Future<Output = Result<T, Error>>>(
    patience: Duration,
    attempt: impl FnMut() -> F,
) -> Result<T, Error> {
    ask_within(patience, Error::is_temporary, attempt).await
}

/// Asks again, for a while, for what was asked for a first time, until it is done, or `again` says that it is not
/// wanted any more.
pub(crate) async fn go_on(
    session: Handle,
    asked: Answer,
    mut again: impl FnMut() -> Option<request::Kind>,
) -> Result<(), Error> {
    let mut asked = Some(asked);
    persistently(|| {
        let asked = asked.take();
        let kind = asked.is_none().then(&mut again).flatten();
        let session = session.clone();
        async move {
            let answer = match (asked, kind) {
                (Some(asked), _) => asked,
                (None, Some(kind)) => session.ask(kind).await?,
                (None, None) => return Ok(()),
            };
            answer.answer().await.map(drop)
        }
    })
    .await
}

/// Has something done to its end, whether or not this is waited for.
pub(crate) async fn to_the_end(
    work: impl Future<Output = Result<(), Error>> + Send + 'static,
) -> Result<(), Error> {
    let work = tokio::spawn(work);
    work.await.unwrap_or_else(|_| Err(Error::unanswered()))
}

/// Has something done for which nobody waits.
pub(crate) fn aside<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(work);
    }
}

/// Asks again, for a while, until it is known what became of something that has a name, so that it is done
/// once; and while what stands in the way is passing.
///
/// # Errors
/// Why it was not done; or that nobody knows whether it was.
pub(crate) async fn until_known<T, F: Future<Output = Result<T, Error>>>(
    is_passing: impl Fn(&Error) -> bool,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Error> {
    let end = Instant::now() + COME_BACK_WITHIN;
    let mut may_be_done = false;
    loop {
        let Ok(answer) = timeout_at(end, attempt()).await else {
            return Err(Error::local("no answer came in time").into_unsure());
        };
        let error = match answer {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        may_be_done |= error.is_unsure();
        let may_help = is_passing(&error)
            || error.is_unsure() && !error.is_closed()
            || may_be_done && error.is_temporary();
        if may_help && Instant::now() + ASK_AGAIN_AFTER < end {
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
        } else if may_be_done && !is_by_room(&error) {
            return Err(error.into_unsure());
        } else {
            return Err(error);
        }
    }
}

/// Whether a refusal is of a kind that is by the room's log, or by what was asked alone: then it was refused
/// however often it was asked for.
fn is_by_room(error: &Error) -> bool {
    let by_room = [
        ErrorCode::NotOwner,
        ErrorCode::NoSuchThing,
        ErrorCode::Conflict,
        ErrorCode::BadFrame,
        ErrorCode::TooLarge,
    ];
    error.code().is_some_and(|code| by_room.contains(&code))
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
                tokio::time::sleep(error.retry_after().unwrap_or(ASK_AGAIN_AFTER)).await;
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

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
    async fn what_may_have_been_done_is_said_to_be_done_or_not_only_by_who_knows() {
        use ErrorCode::{Conflict, NotAMember, NotPermitted, Unavailable, Unsure};

        let rows: [(&[ErrorCode], ErrorCode, bool); 6] = [
            (&[Unavailable], Unavailable, false),
            (&[NotPermitted], NotPermitted, false),
            (&[Unsure, Conflict], Conflict, false),
            (&[Unsure, Unavailable, Conflict], Conflict, false),
            (&[Unsure, NotPermitted], Unsure, true),
            (&[NotAMember, Unsure, NotPermitted], Unsure, true),
        ];
        for (answers, told, is_unsure) in rows {
            let mut answers = answers.iter();
            let is_coming_back = |error: &Error| error.code() == Some(NotAMember);
            let result = until_known(is_coming_back, || {
                let answer = answers.next().expect("nobody asks after the last");
                std::future::ready(Err::<(), _>(refused(*answer)))
            });
            let error = result.await.unwrap_err();
            assert_eq!((error.code(), error.is_unsure()), (Some(told), is_unsure));
            assert_eq!(error.is_temporary(), told == Unavailable);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_stays_unanswered_is_given_up_in_the_end_and_nobody_knows() {
        let begun = Instant::now();
        let forgotten = until_known(|_| false, async || Err::<(), _>(Error::forgotten())).await;
        let unanswered = until_known(|_| false, std::future::pending::<Result<(), _>>).await;
        for error in [forgotten, unanswered].map(Result::unwrap_err) {
            assert!(error.is_unsure() && !error.is_temporary(), "{error}");
        }
        assert!(begun.elapsed() <= 2 * COME_BACK_WITHIN);
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
