//! A stream that is plain or TLS, for callers who do not care which.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio_rustls::TlsStream;

/// Bytes to and from a peer. TLS keeps what was written until it is flushed.
pub enum Stream<T> {
    /// As they are.
    Plain(T),
    /// Encrypted.
    Tls(Box<TlsStream<Sniffed<T>>>),
}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream<T> {
    /// The stream below.
    pub fn below(&self) -> &T {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.get_ref().0.stream,
        }
    }

    /// Takes what has not reached the stream below, with TLS's word that nothing more comes: for
    /// whoever closes without waiting. Empty when plain.
    pub fn last_bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let Self::Tls(stream) = self else {
            return bytes;
        };
        stream.get_mut().1.send_close_notify();
        while stream.get_ref().1.wants_write() {
            let taken = match &mut **stream {
                TlsStream::Client(stream) => stream.get_mut().1.write_tls(&mut bytes),
                TlsStream::Server(stream) => stream.get_mut().1.write_tls(&mut bytes),
            };
            if taken.is_err() {
                break;
            }
        }
        bytes
    }
}

impl<T> fmt::Debug for Stream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Tls(_) => "Tls",
        })
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// The first bytes that come tell what a peer speaks that does not speak TLS.
const HEAD_BYTES: usize = 5;

/// A stream that remembers how the peer began.
#[derive(Debug)]
pub struct Sniffed<T> {
    stream: T,
    head: Vec<u8>,
}

impl<T> Sniffed<T> {
    pub(super) fn new(stream: T) -> Self {
        let head = Vec::with_capacity(HEAD_BYTES);
        Self { stream, head }
    }

    /// The first bytes of the peer, at most five.
    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Sniffed<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, into);
        if this.head.len() < HEAD_BYTES {
            let room = HEAD_BYTES - this.head.len();
            this.head.extend(into.filled()[before..].iter().take(room));
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Sniffed<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
