package cover

//lint:file-ignore SA1019 net/http speaks HTTP/2 over no connection that is not its own

import (
	"crypto/tls"
	"net"
	"net/http"

	"golang.org/x/net/http2"
)

// countFrames has server tell the room of what comes over HTTP/2. The server for that is
// the one that Caddy has, with the same SETTINGS.
func countFrames(server *http.Server) error {
	framed := new(http2.Server)
	if err := http2.ConfigureServer(server, framed); err != nil {
		return err
	}
	server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){
		http2.NextProtoTLS: func(server *http.Server, c *tls.Conn, h http.Handler) {
			framed.ServeConn(newFramedVisit(c), &http2.ServeConnOpts{Handler: h, BaseConfig: server})
		},
	}
	return nil
}

// framedVisit is a visit inside TLS over which HTTP/2 is spoken.
type framedVisit struct {
	*tls.Conn
	visit *visit
	in    frames // of one reader
	out   frames // of one writer
}

func newFramedVisit(c *tls.Conn) *framedVisit {
	v := c.NetConn().(*visit)
	v.note(func() {
		v.framed = true
		v.streams = make(map[uint32]int)
	})
	f := &framedVisit{Conn: c, visit: v}
	f.in = frames{rest: len(http2.ClientPreface), begins: v.asks}
	f.out.begins = v.answers
	return f
}

// Read notes frames before they are read whole, and before there is a buffer for them.
func (f *framedVisit) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	f.in.pass(b[:n])
	if f.visit.over() {
		return 0, net.ErrClosed
	}
	return n, err
}

// Write notes frames after they were sent.
func (f *framedVisit) Write(b []byte) (int, error) {
	n, err := f.Conn.Write(b)
	f.out.pass(b[:n])
	return n, err
}

// asks notes a frame that comes from the visitor.
func (v *visit) asks(kind http2.FrameType, flags http2.Flags, stream uint32, length int) {
	length = min(length, mostFrame)
	v.note(func() {
		v.frame = max(v.frame, length)
		if kind != http2.FrameContinuation {
			v.fields = 0
		}
		switch kind {
		case http2.FrameHeaders, http2.FrameContinuation:
			if !flags.Has(http2.FlagHeadersEndHeaders) {
				v.fields = min(v.fields+length*fieldWeight, mostFields)
			}
			if v.streams[stream] == 0 {
				v.streams[stream] = requestWeight
			}
			v.streams[stream] += 2 * length
		case http2.FrameData:
			if v.streams[stream] > 0 {
				v.streams[stream] += length
			}
		case http2.FrameRSTStream:
			delete(v.streams, stream)
		case http2.FramePing, http2.FrameSettings:
			if !flags.Has(http2.FlagPingAck) {
				v.controls++
			}
		}
	})
}

// answers notes a frame that has gone to the visitor.
func (v *visit) answers(kind http2.FrameType, flags http2.Flags, stream uint32, _ int) {
	v.note(func() {
		switch {
		case kind <= http2.FrameHeaders && flags.Has(http2.FlagDataEndStream), kind == http2.FrameRSTStream:
			delete(v.streams, stream)
		case (kind == http2.FramePing || kind == http2.FrameSettings) && flags.Has(http2.FlagPingAck):
			v.controls--
		}
	})
}

// frames are those of HTTP/2 as they pass (RFC 9113, section 4.1).
type frames struct {
	rest   int // bytes until the next one
	head   [9]byte
	have   int // of it
	begins func(kind http2.FrameType, flags http2.Flags, stream uint32, length int)
}

func (f *frames) pass(b []byte) {
	for len(b) > 0 {
		if f.rest > 0 {
			n := min(f.rest, len(b))
			f.rest -= n
			b = b[n:]
			continue
		}
		n := copy(f.head[f.have:], b)
		f.have += n
		b = b[n:]
		if f.have < len(f.head) {
			return
		}
		h := &f.head
		f.have, f.rest = 0, int(h[0])<<16|int(h[1])<<8|int(h[2])
		f.begins(http2.FrameType(h[3]), http2.Flags(h[4]), uint32(h[5]&0x7f)<<24|uint32(h[6])<<16|uint32(h[7])<<8|uint32(h[8]), f.rest)
	}
}
