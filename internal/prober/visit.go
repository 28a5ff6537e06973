//go:build linux

package prober

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// event is something that a prober notes: a label that must be equal, and a
// time since the connection that must be near.
type event struct {
	what string
	at   time.Duration
}

// visit is one connection of a prober. It is a net.Conn whose reads are
// recorded, for probes that need a whole TLS stack.
type visit struct {
	*net.TCPConn
	ctx      context.Context
	client   net.Addr
	start    time.Time
	patience time.Duration
	stack    *tls.Config
	secure   *tls.Conn // after the step [TLS]
	mu       sync.Mutex
	data     []byte // everything received
	notes    []event
	first    time.Duration // of the first byte received
	ended    string        // "FIN", "RST" or ""
	closed   bool          // by the probe
}

func (v *visit) note(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.notes = append(v.notes, event{fmt.Sprintf(format, args...), time.Since(v.start)})
}

func (v *visit) Read(b []byte) (int, error) {
	n, err := v.TCPConn.Read(b)
	v.mu.Lock()
	if n > 0 {
		if v.data == nil {
			v.first = time.Since(v.start)
		}
		v.data = append(v.data, b[:n]...)
	}
	ended := ""
	if v.ended == "" {
		switch {
		case errors.Is(err, io.EOF):
			ended = "FIN"
		case errors.Is(err, syscall.ECONNRESET):
			ended = "RST"
		}
		v.ended = ended
	}
	v.mu.Unlock()
	if ended != "" {
		v.note("server's end: %s", ended)
	}
	return n, err
}

// Write notes only failures: a success says nothing but that the kernel
// has room.
func (v *visit) Write(b []byte) (int, error) {
	n, err := v.TCPConn.Write(b)
	if err != nil {
		v.note("write: %s", errno(err))
	}
	return n, err
}

func errno(err error) string {
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return e.Error()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "deadline"
	}
	return err.Error()
}

// received is the number of bytes so far.
func (v *visit) received() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.data)
}

// drain reads until the server ends the connection or patience does, and
// reports whether it was the server.
func (v *visit) drain(patience time.Duration) bool {
	_ = v.SetReadDeadline(time.Now().Add(patience))
	_, err := io.Copy(io.Discard, struct{ io.Reader }{v})
	_ = v.SetReadDeadline(time.Time{})
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// afterwards notes what two writes meet after the server's end: whether and
// when a RST answers the first.
func (v *visit) afterwards() {
	if v.closed || v.ended != "FIN" {
		return
	}
	_, _ = v.Write([]byte{0x17})
	answer := Failure(v.TCPConn, 300*time.Millisecond)
	v.note("a byte after the server's end is met by: %s", answer)
	_, _ = v.Write([]byte{0x17})
}

// Failure waits, d at most, until a connection that has ended one way fails
// altogether, and says how. A read would say no more than that the end came.
func Failure(c *net.TCPConn, d time.Duration) string {
	answer := "nothing"
	raw, err := c.SyscallConn()
	if err != nil {
		return err.Error()
	}
	_ = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}} // POLLERR and POLLHUP are always told
		deadline := time.Now().Add(d)
		for {
			n, err := unix.Poll(p, max(0, int(time.Until(deadline).Milliseconds())))
			if err == unix.EINTR {
				continue
			}
			if n > 0 {
				if e, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err == nil {
					answer = syscall.Errno(e).Error()
				}
			}
			return
		}
	})
	return answer
}

// handshake does one with crypto/tls.
func (v *visit) handshake(cfg *tls.Config) {
	v.secure = tls.Client(v, cfg)
	err := v.secure.HandshakeContext(v.ctx)
	s := v.secure.ConnectionState()
	leaf := "none"
	if len(s.PeerCertificates) > 0 {
		leaf = fmt.Sprintf("%x", sha256.Sum256(s.PeerCertificates[0].Raw))
	}
	v.note("handshake: %v, TLS %#x, cipher %#x, ALPN %q, resumed %v, certificate %s", err, s.Version, s.CipherSuite, s.NegotiatedProtocol, s.DidResume, leaf)
}

// observations is what the prober holds in the end.
func (v *visit) observations() []event {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]event{{"received: " + Records(v.data), v.first}}, v.notes...)
}
