//! Reading and writing streams: every wait bounded by progress, every length checked before it is believed.

use super::transport::reason;
use crate::wire::{self, Message, WireError};
use bytes::{BufMut, Bytes, BytesMut};
use quinn::{ReadError, ReadExactError, RecvStream, SendStream, VarInt, WriteError};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, Sleep};

/// Why a stream did not carry what it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    /// The sender breaks the protocol: its connection is closed.
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("no progress within {0:?}")]
    Stalled(Duration),
    /// The stream ended or was given up by the other side.
    #[error("the stream ended early")]
    Ended,
    #[error("the connection is lost: {0}")]
    Lost(String),
}

/// A deadline that moves with progress, up to four times its length in all.
pub(super) struct Progress {
    limit: Duration,
    end: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Progress {
    pub(super) fn new(limit: Duration) -> Progress {
        let now = Instant::now();
        Progress { limit, end: now + 4 * limit, sleep: Box::pin(tokio::time::sleep_until(now + limit)) }
    }

    /// Counts what happened as progress.
    pub(super) fn made(&mut self) {
        let next = (Instant::now() + self.limit).min(self.end);
        self.sleep.as_mut().reset(next);
    }

    /// Whether the deadline may still move.
    pub(super) fn may_move(&self) -> bool {
        Instant::now() < self.end
    }

    /// One step, which must end before the deadline and then counts as progress.
    pub(super) async fn step<T, E: Into<StreamError>>(
        &mut self,
        step: impl Future<Output = Result<T, E>>,
    ) -> Result<T, StreamError> {
        tokio::select! {
            biased;
            result = step => {
                self.made();
                result.map_err(Into::into)
            }
            () = &mut self.sleep => Err(StreamError::Stalled(self.limit)),
        }
    }
}

/// A message framed by its length.
pub(super) async fn read_message<M: Message>(
    stream: &mut RecvStream,
    progress: &mut Progress,
) -> Result<M, StreamError> {
    let length = progress.step(read_length(stream)).await?;
    wire::within(length, M::LIMIT)?;
    let bytes = read_bytes(stream, length, progress).await?;
    Ok(wire::decode(&bytes)?)
}

/// The length that goes before a message or a piece of a snapshot.
pub(super) async fn read_length(stream: &mut RecvStream) -> Result<usize, StreamError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    Ok(u32::from_le_bytes(length) as usize)
}

/// Exactly `length` bytes, a length that the caller has checked: read into one buffer, with one copy.
pub(super) async fn read_bytes(
    stream: &mut RecvStream,
    length: usize,
    progress: &mut Progress,
) -> Result<Bytes, StreamError> {
    let mut bytes = BytesMut::with_capacity(length);
    while bytes.len() < length {
        let missing = length - bytes.len();
        let mut rest = (&mut bytes).limit(missing);
        if progress.step(stream.read_buf(&mut rest)).await? == 0 {
            return Err(StreamError::Ended);
        }
    }
    Ok(bytes.freeze())
}

/// A stream being written; when it is dropped before `finish`, the reader is told that it was given up.
pub(super) struct Sending {
    stream: SendStream,
    finished: bool,
}

impl Sending {
    pub(super) fn new(stream: SendStream) -> Sending {
        Sending { stream, finished: false }
    }

    /// Hands over all the bytes without copying them.
    pub(super) async fn write(&mut self, mut chunks: &mut [Bytes], progress: &mut Progress) -> Result<(), StreamError> {
        while !chunks.is_empty() {
            if chunks[0].is_empty() {
                chunks = &mut chunks[1..];
                continue;
            }
            let written = progress.step(self.stream.write_chunks(chunks)).await?;
            chunks = &mut chunks[written.chunks..];
        }
        Ok(())
    }

    pub(super) fn finish(&mut self) {
        self.finished = self.stream.finish().is_ok();
    }

    /// Whether the other side has acknowledged everything that was written before `finish`.
    pub(super) async fn is_delivered(&self) -> bool {
        tokio::select! {
            biased;
            _ = self.stream.stopped() => true,
            () = std::future::ready(()) => false,
        }
    }

    /// Waits until everything written is acknowledged, or given up.
    pub(super) async fn delivered(&self) {
        let _ = self.stream.stopped().await;
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.stream.reset(VarInt::from_u32(0));
        }
    }
}

impl From<ReadError> for StreamError {
    fn from(error: ReadError) -> StreamError {
        match error {
            ReadError::ConnectionLost(error) => StreamError::Lost(reason(&error)),
            _ => StreamError::Ended,
        }
    }
}

impl From<ReadExactError> for StreamError {
    fn from(error: ReadExactError) -> StreamError {
        match error {
            ReadExactError::FinishedEarly(_) => StreamError::Ended,
            ReadExactError::ReadError(error) => error.into(),
        }
    }
}

impl From<std::io::Error> for StreamError {
    fn from(error: std::io::Error) -> StreamError {
        match error.downcast::<ReadError>() {
            Ok(error) => error.into(),
            Err(_) => StreamError::Ended,
        }
    }
}

impl From<WriteError> for StreamError {
    fn from(error: WriteError) -> StreamError {
        match error {
            WriteError::ConnectionLost(error) => StreamError::Lost(reason(&error)),
            _ => StreamError::Ended,
        }
    }
}

impl From<quinn::ConnectionError> for StreamError {
    fn from(error: quinn::ConnectionError) -> StreamError {
        StreamError::Lost(reason(&error))
    }
}
