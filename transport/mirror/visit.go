package mirror

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"busel/obfs/look"
)

// Bounds on what a cover may send (Chromium's: 16 KiB frames, 256 KiB headers).
const (
	maxH2Frame  = 16 << 10
	maxH2Header = 256 << 10
	hpackTable  = 65536
)

// errGoodbye means that the cover asked to end the connection in good order.
var errGoodbye = errors.New("the cover said goodbye")

// visit speaks genuine HTTP with the cover, as the look's browser would.
type visit struct {
	rw   io.ReadWriter // the TLS connection
	http *look.HTTP
	host string // authority
	h2   bool

	turn  turn // guards what follows, and is held over the write
	fr    *http2.Framer
	enc   *hpack.Encoder
	hdr   bytes.Buffer
	next  uint32       // stream id
	again bool         // a request was sent
	asked atomic.Int64 // requests without a complete response

	heard    atomic.Bool      // the cover has sent an HTTP/2 frame
	answered func(status int) // called at the end of each response; may be nil
}

func newVisit(rw io.ReadWriter, h *look.HTTP, host, alpn string, answered func(int)) *visit {
	v := &visit{rw: rw, http: h, host: host, h2: alpn == "h2", turn: newTurn(), next: h.First, answered: answered}
	if v.answered == nil {
		v.answered = func(int) {}
	}
	v.fr = http2.NewFramer(rw, rw)
	v.fr.SetMaxReadFrameSize(maxH2Frame)
	v.fr.ReadMetaHeaders = hpack.NewDecoder(hpackTable, nil)
	v.fr.MaxHeaderListSize = maxH2Header
	v.enc = hpack.NewEncoder(&v.hdr)
	return v
}

// open sends what the browser sends first: with HTTP/2 the preface, SETTINGS
// and WINDOW_UPDATE in one record.
func (v *visit) open() error {
	if !v.h2 {
		return nil
	}
	var b bytes.Buffer
	b.WriteString(http2.ClientPreface)
	fr := http2.NewFramer(&b, nil)
	var settings []http2.Setting
	for _, s := range v.http.Settings {
		settings = append(settings, http2.Setting{ID: http2.SettingID(s.ID), Val: s.Value})
	}
	if err := errors.Join(fr.WriteSettings(settings...), fr.WriteWindowUpdate(0, v.http.ConnWindow)); err != nil {
		return err
	}
	_, err := v.rw.Write(b.Bytes())
	return err
}

// fields are a GET's header fields in the browser's order.
func fields(h *look.HTTP, host, path string, again bool) []look.Field {
	var f []look.Field
	for _, name := range h.Pseudo {
		value := map[string]string{":method": "GET", ":authority": host, ":scheme": "https", ":path": path}[name]
		f = append(f, look.Field{Name: name, Value: value})
	}
	if again {
		return append(f, h.Reload...)
	}
	return append(f, h.Navigate...)
}

func encode(e *hpack.Encoder, f []look.Field) error {
	for _, x := range f {
		if err := e.WriteField(hpack.HeaderField{Name: x.Name, Value: x.Value}); err != nil {
			return err
		}
	}
	return nil
}

// helloSize draws how long the record of the look's first request would be: the
// length in its header. Paths of pages are up to some 30 characters long.
func helloSize(h *look.HTTP, host string) (int, error) {
	const letters = "abcdefghijklmnopqrstuvwxyz-/0123456789"
	var path strings.Builder
	path.WriteByte('/')
	for range rand.IntN(32) {
		path.WriteByte(letters[rand.IntN(len(letters))])
	}
	var b bytes.Buffer
	if err := encode(hpack.NewEncoder(&b), fields(h, host, path.String(), false)); err != nil {
		return 0, err
	}
	const frame, priority = 9, 5
	return frame + priority + b.Len() + 1 + tagLen, nil
}

// get sends one genuine request for the cover's first page.
func (v *visit) get() error {
	v.turn.take()
	defer v.turn.give()
	v.asked.Add(1)
	again := v.again
	v.again = true
	if !v.h2 {
		return v.get1()
	}
	v.hdr.Reset()
	if err := encode(v.enc, fields(v.http, v.host, "/", again)); err != nil {
		return err
	}
	id := v.next
	v.next += 2
	return v.fr.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: v.hdr.Bytes(), EndStream: true, EndHeaders: true,
		Priority: http2.PriorityParam{Exclusive: v.http.Exclusive, Weight: v.http.Weight},
	})
}

func (v *visit) get1() error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "GET / HTTP/1.1\r\nHost: %s\r\n", v.host)
	for _, f := range v.http.HTTP1 {
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	b.WriteString("\r\n")
	_, err := v.rw.Write(b.Bytes())
	return err
}

// serve answers the cover until the connection ends, and says why it did.
func (v *visit) serve() error {
	if !v.h2 {
		return v.serve1()
	}
	w := windows{visit: v, streams: map[uint32]uint32{}}
	goodbye := false
	status := map[uint32]int{}
	for {
		f, err := v.fr.ReadFrame()
		if se, ok := errors.AsType[http2.StreamError](err); ok {
			if err := v.control(func() error { return v.fr.WriteRSTStream(se.StreamID, se.Code) }); err != nil {
				return err
			}
			v.asked.Add(-1)
			continue
		}
		if err != nil {
			return err
		}
		v.heard.Store(true)
		ended := false
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if f.IsAck() {
				break
			}
			if size, ok := f.Value(http2.SettingHeaderTableSize); ok {
				v.turn.take()
				v.enc.SetMaxDynamicTableSizeLimit(size)
				v.turn.give()
			}
			err = v.control(v.fr.WriteSettingsAck)
		case *http2.PingFrame:
			if !f.IsAck() {
				err = v.control(func() error { return v.fr.WritePing(true, f.Data) })
			}
		case *http2.MetaHeadersFrame:
			if _, known := status[f.StreamID]; !known && len(status) < 8 {
				code := 0
				_, _ = fmt.Sscan(f.PseudoValue("status"), &code)
				if code >= 200 { // not an interim response
					status[f.StreamID] = code
				}
			}
			ended = f.StreamEnded()
		case *http2.DataFrame:
			err = w.data(f.StreamID, f.Length)
			ended = f.StreamEnded()
		case *http2.RSTStreamFrame:
			ended = true
		case *http2.GoAwayFrame:
			goodbye = true
		}
		if err != nil {
			return err
		}
		if id := f.Header().StreamID; ended {
			v.asked.Add(-1)
			v.answered(status[id])
			delete(status, id)
			delete(w.streams, id)
		}
		if goodbye && v.asked.Load() <= 0 {
			return errGoodbye
		}
	}
}

// control writes a frame of its own.
func (v *visit) control(write func() error) error {
	v.turn.take()
	defer v.turn.give()
	return write()
}

// windows gives flow-control credit back as Chromium does: when half is used.
type windows struct {
	visit   *visit
	conn    uint32
	streams map[uint32]uint32
}

func (w *windows) data(id, n uint32) error {
	h := w.visit.http
	w.conn += n
	if len(w.streams) < 8 || w.streams[id] > 0 {
		w.streams[id] += n
	}
	if used := w.streams[id]; used > h.StreamWindow/2 {
		w.streams[id] = 0
		if err := w.visit.control(func() error { return w.visit.fr.WriteWindowUpdate(id, used) }); err != nil {
			return err
		}
	}
	if used := w.conn; used > h.ConnWindow/2 {
		w.conn = 0
		return w.visit.control(func() error { return w.visit.fr.WriteWindowUpdate(0, used) })
	}
	return nil
}

func (v *visit) serve1() error {
	r := bufio.NewReader(v.rw)
	for {
		if _, err := r.Peek(1); err != nil {
			return err
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return err
		}
		if resp.StatusCode < 200 {
			continue
		}
		v.asked.Add(-1)
		v.answered(resp.StatusCode)
		if resp.Close {
			return errGoodbye
		}
	}
}
