//! The HTTP API, and the door to sessions over WebSocket. `docs/http-api.md` describes it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::rejection::JsonRejection;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{DefaultBodyLimit, Extension, Request, State, WebSocketUpgrade};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tombolo_services::{ConnectionInfo, TransportKind};
use tombolo_wire::token::Claims;
use tombolo_wire::v1::{ErrorCode, IceServers};
use tombolo_wire::{UserId, WEBSOCKET_PATH};

use crate::api;
use crate::connection::{self, Caller};
use crate::https::Source;
use crate::shared::Shared;
use crate::websocket;

type Node = State<Arc<Shared>>;

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/v1/ice-servers", get(ice_servers).post(ice_servers))
        .route(WEBSOCKET_PATH, get(session));
    if shared.dev_tokens.is_some() {
        router = router.route("/v1/tokens", post(tokens));
    }
    router
        .merge(api::router())
        .fallback(|| async { ApiError::NOT_FOUND })
        .method_not_allowed_fallback(|| async { ApiError::METHOD_NOT_ALLOWED })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), attend))
        .with_state(shared)
}

/// The process lives.
async fn healthz() -> &'static str {
    "ok\n"
}

/// The node takes devices.
async fn readyz(State(shared): Node) -> Result<&'static str, ApiError> {
    if !shared.is_serving() {
        return Err(ApiError::UNAVAILABLE);
    }
    let joined = shared.services.in_cluster().await;
    joined.map_err(|reject| {
        ApiError::of_contract(StatusCode::SERVICE_UNAVAILABLE, reject.code, reject.message)
    })?;
    Ok("ready\n")
}

/// Where a device with a valid token finds STUN and TURN, as WebRTC's `RTCConfiguration` has it.
async fn ice_servers(
    State(shared): Node,
    headers: HeaderMap,
) -> Result<Json<IceServersBody>, ApiError> {
    let token = bearer(&headers).ok_or(ApiError::NO_TOKEN)?;
    let claims = shared
        .services
        .authenticate(token)
        .map_err(|error| ApiError::of_contract(StatusCode::UNAUTHORIZED, error.code(), error))?;
    Ok(Json(shared.services.ice_servers(&claims).into()))
}

/// A token for anybody: development only.
async fn tokens(
    State(shared): Node,
    body: Result<Json<TokenRequest>, JsonRejection>,
) -> Result<Json<TokenBody>, ApiError> {
    let key = shared.dev_tokens.as_ref().ok_or(ApiError::NOT_FOUND)?;
    let Json(request) = body.map_err(|rejection| ApiError {
        status: rejection.status(),
        code: "bad_request".into(),
        message: rejection.body_text().into(),
    })?;
    let user = UserId::parse(&request.user)
        .map_err(|error| ApiError::of_contract(StatusCode::BAD_REQUEST, error.code(), error))?;
    let ttl = request.ttl_s.map_or(TOKEN_TTL, Duration::from_secs);
    if ttl.is_zero() || ttl > TOKEN_TTL_MAX {
        return Err(ApiError::BAD_TTL);
    }
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let claims = Claims::new(user, now + ttl);
    let token = key.mint(&claims).map_err(|_| ApiError::INTERNAL)?;
    Ok(Json(TokenBody {
        token,
        expires: claims.expires.as_secs(),
    }))
}

/// A device session over WebSocket. Refusals come as a `Reject` frame, as over QUIC.
async fn session(
    State(shared): Node,
    Extension(source): Extension<Source>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|rejection| ApiError {
        status: rejection.status(),
        code: "bad_request".into(),
        message: rejection.body_text().into(),
    })?;
    let response = websocket::bounded(upgrade).on_upgrade(move |socket| async move {
        let (sender, receiver) = websocket::split(socket, shared.limits.idle_timeout);
        let info = ConnectionInfo {
            remote: source.addr,
            transport: TransportKind::WebSocket,
        };
        let caller = Caller {
            info,
            ticket: &source.ticket,
            hello_deadline: Instant::now() + shared.limits.hello_timeout,
        };
        let conversation = connection::run(caller, sender, receiver, &shared);
        shared.hold(&source.ticket, conversation).await;
    });
    Ok(response)
}

/// Counts, and lets nobody stay while the gateway drains.
async fn attend(State(shared): Node, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    shared.counters.http_requests.add();
    if response.status().is_client_error() || response.status().is_server_error() {
        shared.counters.http_errors.add();
    }
    if shared.is_draining() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

/// The token of `Authorization: Bearer TOKEN` (RFC 6750 §2.1).
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct IceServersBody {
    ice_servers: Vec<IceServerBody>,
    /// Seconds until the credentials expire.
    ttl: u32,
}

#[derive(Debug, Serialize)]
struct IceServerBody {
    urls: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    credential: String,
}

impl From<IceServers> for IceServersBody {
    fn from(servers: IceServers) -> Self {
        let ice_servers = servers.servers.into_iter().map(|server| IceServerBody {
            urls: server.urls,
            username: server.username,
            credential: server.credential,
        });
        Self {
            ice_servers: ice_servers.collect(),
            ttl: servers.ttl_s,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenRequest {
    user: String,
    ttl_s: Option<u64>,
}

#[derive(Debug, Serialize)]
struct TokenBody {
    token: String,
    /// Unix time, seconds.
    expires: u64,
}

/// An answer that is none: `{code, message}` with a fitting status.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: Cow<'static, str>,
    message: Cow<'static, str>,
}

impl ApiError {
    const NOT_FOUND: Self = Self::new(StatusCode::NOT_FOUND, "not_found", "no such resource");
    const METHOD_NOT_ALLOWED: Self = Self::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "the resource has no such method",
    );
    pub(crate) const UNAVAILABLE: Self = Self::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "unavailable",
        "the node is starting or leaving",
    );
    const NO_TOKEN: Self = Self::new(
        StatusCode::UNAUTHORIZED,
        "token_missing",
        "a device token is needed: Authorization: Bearer TOKEN",
    );
    pub(crate) const NO_KEY: Self = Self::new(
        StatusCode::UNAUTHORIZED,
        "key_missing",
        "an API key that the node knows is needed: Authorization: Bearer KEY",
    );
    pub(crate) const RATE: Self = Self::new(
        StatusCode::TOO_MANY_REQUESTS,
        "rate",
        "the key is used too often",
    );
    const BAD_TTL: Self = Self::new(
        StatusCode::BAD_REQUEST,
        "bad_ttl",
        "ttl_s is from 1 to 2592000 (30 days)",
    );
    const INTERNAL: Self = Self::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "the key cannot sign",
    );

    const fn new(status: StatusCode, code: &'static str, message: &'static str) -> Self {
        Self {
            status,
            code: Cow::Borrowed(code),
            message: Cow::Borrowed(message),
        }
    }

    pub(crate) fn owned(status: StatusCode, code: &'static str, message: String) -> Self {
        Self {
            status,
            code: code.into(),
            message: message.into(),
        }
    }

    /// An error of the contract, under its name there: `token_expired` for
    /// `ERROR_CODE_TOKEN_EXPIRED`.
    pub(crate) fn of_contract(status: StatusCode, code: ErrorCode, message: impl ToString) -> Self {
        let name = code.as_str_name();
        let name = name
            .strip_prefix("ERROR_CODE_")
            .unwrap_or(name)
            .to_ascii_lowercase();
        Self {
            status,
            code: name.into(),
            message: message.to_string().into(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status;
        let mut response = (status, Json(ErrorBody::from(self))).into_response();
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110 §11.6.1: a 401 names the scheme.
            let scheme = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
        }
        if status == StatusCode::TOO_MANY_REQUESTS {
            let seconds = HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct ErrorBody {
    code: Cow<'static, str>,
    message: Cow<'static, str>,
}

impl From<ApiError> for ErrorBody {
    fn from(ApiError { code, message, .. }: ApiError) -> Self {
        Self { code, message }
    }
}

/// What a token request can need, generously.
const BODY_BYTES_MAX: usize = 4 * 1024;
const TOKEN_TTL: Duration = Duration::from_secs(3_600);
const TOKEN_TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
