//! Requests with a name of their own (`Idempotency-Key`): whoever repeats one, on whatever node, gets the answer
//! that it had, and nothing is done twice.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use tombolo_services::{BegunRequest, RequestAnswer, RequestName, RequestRefusal};

use super::{Holder, Needs, unreadable};
use crate::http::ApiError;
use crate::shared::Shared;

/// A body in JSON, and a digest of it as it came.
pub(super) struct Read<T> {
    pub(super) body: T,
    pub(super) digest: [u8; 32],
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Read<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let whole = Request::from_parts(parts.clone(), body);
        let bytes = Bytes::from_request(whole, state).await;
        let bytes = bytes.map_err(|rejection| {
            ApiError::owned(rejection.status(), "bad_request", rejection.body_text())
        })?;
        let digest = Sha256::digest(&bytes).into();
        let read = Request::from_parts(parts, Body::from(bytes));
        let Json(body) = Json::from_request(read, state).await.map_err(unreadable)?;
        Ok(Self { body, digest })
    }
}

impl<S: Needs> Holder<S> {
    /// Carries out what a request asks, unless it is known how it was answered before. The work is told for how long
    /// it has been wanted.
    pub(super) async fn once(
        &self,
        shared: &Shared,
        place: &str,
        digest: [u8; 32],
        work: impl AsyncFnOnce(Duration) -> Result<Response, ApiError>,
    ) -> Result<Response, ApiError> {
        let Some(given) = &self.operation else {
            return work(Duration::ZERO).await;
        };
        let name = RequestName::new(
            short(&[self.key.key.name.as_bytes()]),
            short(&[given.as_bytes()]),
        );
        let asked = short(&[place.as_bytes(), &digest]);
        let wanted_for = match shared.services.begin_request(&name, asked).await {
            Ok(BegunRequest::Open(wanted_for)) => wanted_for,
            Ok(BegunRequest::Answered(answer)) => return Ok(repeated(answer)),
            Err(refusal) => {
                shared.counters.api_repetitions_refused.add();
                return Err(refused(refusal));
            }
        };
        let response = work(wanted_for)
            .await
            .unwrap_or_else(ApiError::into_response);
        let status = response.status();
        if !is_final(status) {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let Ok(body) = to_bytes(body, super::BODY_BYTES_MAX).await else {
            return Ok(ApiError::UNAVAILABLE.into_response());
        };
        let answer = RequestAnswer::new(status.as_u16(), body);
        let kept = shared.services.answer_request(&name, answer.clone()).await;
        if kept == answer {
            return Ok(Response::from_parts(parts, Body::from(answer.body)));
        }
        Ok(repeated(kept))
    }
}

/// Whether a repetition would be answered alike.
fn is_final(status: StatusCode) -> bool {
    !status.is_server_error()
        && !matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        )
}

fn repeated(answer: RequestAnswer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        ),
        (
            header::HeaderName::from_static("idempotency-replayed"),
            HeaderValue::from_static("true"),
        ),
    ];
    (status, headers, answer.body).into_response()
}

fn refused(refusal: RequestRefusal) -> ApiError {
    let (status, code) = match refusal {
        RequestRefusal::Different => (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_used"),
        RequestRefusal::Unsure => (StatusCode::CONFLICT, "unsure"),
        RequestRefusal::Full => (StatusCode::TOO_MANY_REQUESTS, "rate"),
        RequestRefusal::Unavailable | _ => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    ApiError::owned(status, code, refusal.to_string())
}

/// The beginning of a digest over parts, of which each is told from the next.
fn short<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let digest: [u8; 32] = digest.finalize().into();
    std::array::from_fn(|at| digest[at])
}
