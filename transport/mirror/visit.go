package mirror

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"busel/obfs/look"
)

// Bounds on what a cover may send (Chromium's: 16 KiB frames, 256 KiB headers), and on
// how many of its answers may be awaited at a time.
const (
	maxH2Frame = 16 << 10
	maxHeader  = 256 << 10
	hpackTable = 65536
	maxAsked   = 2 * maxNeeds
)

// errGoodbye means that the cover asked to end the connection in good order.
var errGoodbye = errors.New("the cover said goodbye")

// visit speaks genuine HTTP with the cover, as the look's browser would.
type visit struct {
	rw   io.ReadWriter // the TLS connection
	http *look.HTTP
	host string // authority
	h2   bool
	// site is what is known of the cover's pages, and has what they need asked for. nil:
	// nothing is asked for but by get.
	site *pages
	// quiet is since when nothing has come over the connection; nil if nobody knows.
	quiet func() time.Time

	turn  turn // guards what follows, and is held over the write
	fr    *http2.Framer
	enc   *hpack.Encoder
	hdr   bytes.Buffer
	next  uint32 // stream id
	pings uint64
	again bool                 // a page was asked for
	open  map[uint32]*exchange // by stream; at most maxAsked and what one page needs
	asked atomic.Int64         // requests without a complete response

	last     atomic.Pointer[exchange] // whose response was complete last
	heard    atomic.Bool              // the cover has sent an HTTP/2 frame
	answered func(status int)         // called at the end of each response; may be nil
}

// exchange is a request and what came of its response.
type exchange struct {
	request
	status   int
	size     int    // of the response's frames, in bytes
	date     string // the Date field
	encoding string
	stamp    []look.Field // by which the browser asks whether the page is another one
	body     []byte       // of a page, up to maxPage
	got      int
	credit
}

// credit is what was used of a flow-control window since it was given back last.
type credit struct {
	used uint32
	last time.Time
}

func newVisit(rw io.ReadWriter, h *look.HTTP, host, alpn string, answered func(int)) *visit {
	v := &visit{rw: rw, http: h, host: host, h2: alpn == "h2", turn: newTurn(), next: h.First, open: map[uint32]*exchange{}, answered: answered}
	if v.answered == nil {
		v.answered = func(int) {}
	}
	v.fr = http2.NewFramer(rw, rw)
	v.fr.SetMaxReadFrameSize(maxH2Frame)
	v.fr.ReadMetaHeaders = hpack.NewDecoder(hpackTable, nil)
	v.fr.MaxHeaderListSize = maxHeader
	v.enc = hpack.NewEncoder(&v.hdr)
	return v
}

// begin sends what the browser sends first: with HTTP/2 the preface, SETTINGS
// and WINDOW_UPDATE in one record.
func (v *visit) begin() error {
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

// fields are a GET's header fields in the browser's order. The stamp is what the
// browser's cache knows of the page, if that is loaded again.
func fields(h *look.HTTP, host string, r request, stamp []look.Field) []look.Field {
	var f []look.Field
	for _, name := range h.Pseudo {
		value := map[string]string{":method": "GET", ":authority": host, ":scheme": "https", ":path": r.path}[name]
		f = append(f, look.Field{Name: name, Value: value})
	}
	list := h.Navigate
	switch {
	case len(h.Fetch[r.kind]) > 0:
		list = h.Fetch[r.kind]
	case r.again:
		list = h.Reload
	}
	for _, x := range list {
		if r.again && x.Name == "priority" {
			f, stamp = append(f, stamp...), nil
		}
		x.Value = strings.ReplaceAll(x.Value, look.PageURL, "https://"+host+r.from)
		f = append(f, x)
	}
	return f
}

// encode writes a header block as browsers do: what is not in HPACK's static table goes
// into the dynamic one, but for paths.
func encode(e *hpack.Encoder, h *look.HTTP, f []look.Field) error {
	for _, x := range f {
		apart := x.Name == ":path" && (h.PathLiteral || x.Value != "/" && x.Value != "/index.html")
		if err := e.WriteField(hpack.HeaderField{Name: x.Name, Value: x.Value, Sensitive: apart}); err != nil {
			return err
		}
	}
	return nil
}

// Lengths in HTTP/2 frames.
const (
	frameHeader = 9
	priorityLen = 5
	updateLen   = frameHeader + 4
)

// helloSize is how long the record of the look's first request would be, for the
// cover's first page: the length in its header.
func helloSize(h *look.HTTP, host string) (int, error) {
	var b bytes.Buffer
	if err := encode(hpack.NewEncoder(&b), h, fields(h, host, request{path: "/"}, nil)); err != nil {
		return 0, err
	}
	n := frameHeader + priorityLen + b.Len() + 1 + tagLen
	if h.RequestWindow > 0 {
		n += updateLen
	}
	return n, nil
}

// patient reports whether the visitor waits for answers before he asks again, as browsers
// do with HTTP/1.1, and people when nothing comes.
func (v *visit) patient() bool {
	n := v.asked.Load()
	return n > 0 && !v.h2 || n >= maxAsked
}

// get asks for the cover's first page, or for it again.
func (v *visit) get() error {
	v.turn.take()
	r := request{path: "/", again: v.again}
	v.turn.give()
	return v.ask(r)
}

// browse does what a visitor does next, as far as is known of the site.
func (v *visit) browse() error {
	if v.site == nil || !v.h2 {
		return v.get()
	}
	v.turn.take()
	again := v.again
	v.turn.give()
	return v.ask(v.site.next(again))
}

// ask sends one genuine request.
func (v *visit) ask(r request) error {
	v.turn.take()
	defer v.turn.give()
	v.asked.Add(1)
	if r.kind == "" {
		v.again = true
	}
	if !v.h2 {
		return v.get1()
	}
	var stamp []look.Field
	if v.site != nil && r.again {
		stamp = v.site.known()
	}
	v.hdr.Reset()
	if err := encode(v.enc, v.http, fields(v.http, v.host, r, stamp)); err != nil {
		return err
	}
	id := v.next
	v.next += 2
	v.open[id] = &exchange{request: r, credit: credit{last: time.Now()}}
	silent := v.http.PingRequest > 0 && v.quiet != nil && time.Since(v.quiet()) > time.Duration(v.http.PingRequest)*time.Second
	// What belongs together is one record.
	var b bytes.Buffer
	fr := http2.NewFramer(&b, nil)
	err := fr.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: v.hdr.Bytes(), EndStream: true, EndHeaders: true,
		Priority: http2.PriorityParam{Exclusive: v.http.Exclusive, Weight: v.http.Weight},
	})
	if v.http.RequestWindow > 0 {
		err = errors.Join(err, fr.WriteWindowUpdate(id, v.http.RequestWindow))
	}
	if err != nil {
		return err
	}
	if _, err := v.rw.Write(b.Bytes()); err != nil || !silent {
		return err
	}
	return v.sendPing()
}

// sendPing sends a PING; the turn is held.
func (v *visit) sendPing() error {
	v.pings++
	return v.fr.WritePing(false, [8]byte(binary.BigEndian.AppendUint64(nil, v.pings)))
}

// ping sends a PING.
func (v *visit) ping() error { return v.control(v.sendPing) }

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
	conn := credit{last: time.Now()}
	goodbye := false
	for {
		f, err := v.fr.ReadFrame()
		if se, ok := errors.AsType[http2.StreamError](err); ok {
			if err := v.control(func() error { return v.fr.WriteRSTStream(se.StreamID, se.Code) }); err != nil {
				return err
			}
			v.ended(se.StreamID)
			continue
		}
		if err != nil {
			return err
		}
		v.heard.Store(true)
		id, ended := f.Header().StreamID, false
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
			if x := v.exchange(id); x != nil {
				x.size += frameHeader + int(f.Length)
				x.header(f)
			}
			ended = f.StreamEnded()
		case *http2.DataFrame:
			ended = f.StreamEnded()
			err = v.data(f, &conn)
		case *http2.RSTStreamFrame:
			ended = true
		case *http2.GoAwayFrame:
			goodbye = true
		}
		if err != nil {
			return err
		}
		if x := v.exchange(id); ended && x != nil {
			v.ended(id)
			v.last.Store(x)
			v.answered(x.status)
			if err := v.follow(x, goodbye); err != nil {
				return err
			}
		}
		if goodbye && v.asked.Load() <= 0 {
			return errGoodbye
		}
	}
}

// exchange is that of a stream which has not ended; nil if there is none.
func (v *visit) exchange(id uint32) *exchange {
	v.turn.take()
	defer v.turn.give()
	return v.open[id]
}

// ended notes the end of a response.
func (v *visit) ended(id uint32) {
	v.turn.take()
	defer v.turn.give()
	if _, ok := v.open[id]; ok {
		delete(v.open, id)
		v.asked.Add(-1)
	}
}

// header notes what is of interest in a response's header fields.
func (x *exchange) header(f *http2.MetaHeadersFrame) {
	code := 0
	_, _ = fmt.Sscan(f.PseudoValue("status"), &code)
	if x.status != 0 || code < 200 { // an interim response, or what follows the body
		return
	}
	x.status = code
	for _, h := range f.RegularFields() {
		switch h.Name {
		case "date":
			x.date = h.Value
		case "content-encoding":
			x.encoding = h.Value
		case "etag", "last-modified":
			name := map[string]string{"etag": "if-none-match", "last-modified": "if-modified-since"}[h.Name]
			if len(h.Value) <= maxStamp && !slices.ContainsFunc(x.stamp, func(f look.Field) bool { return f.Name == name }) {
				x.stamp = append(x.stamp, look.Field{Name: name, Value: h.Value})
			}
		}
	}
}

// data takes a part of a body and gives credit back as the browser does.
func (v *visit) data(f *http2.DataFrame, conn *credit) error {
	h, n, now := v.http, f.Length, time.Now()
	due := func(c *credit, window uint32) uint32 {
		c.used += n
		if used := c.used; used > window/2 || used > 0 && h.SmallUpdate > 0 && now.Sub(c.last) >= time.Duration(h.SmallUpdate)*time.Second {
			c.used, c.last = 0, now
			return used
		}
		return 0
	}
	if v.site != nil {
		v.site.came(0, int(n))
	}
	if x := v.exchange(f.StreamID); x != nil {
		x.got += int(n)
		x.size += frameHeader + int(n)
		if x.kind == "" || x.kind == "follow" {
			x.body = append(x.body, f.Data()[:min(len(f.Data()), maxPage-len(x.body))]...)
		}
		switch used := due(&x.credit, h.StreamWindow+h.RequestWindow); {
		case f.StreamEnded():
		case v.site != nil && x.got > maxBody:
			if err := v.control(func() error { return v.fr.WriteRSTStream(f.StreamID, http2.ErrCodeCancel) }); err != nil {
				return err
			}
			v.ended(f.StreamID)
		case used > 0:
			if err := v.control(func() error { return v.fr.WriteWindowUpdate(f.StreamID, used) }); err != nil {
				return err
			}
		}
	}
	if used := due(conn, h.ConnWindow); used > 0 {
		return v.control(func() error { return v.fr.WriteWindowUpdate(0, used) })
	}
	return nil
}

// follow asks for what a page needs.
func (v *visit) follow(x *exchange, goodbye bool) error {
	if v.site == nil || x.kind != "" && x.kind != "follow" || goodbye || x.status != http.StatusOK {
		return nil
	}
	if x.path == "/" {
		v.site.remember(x.stamp)
	}
	for _, r := range v.site.read(x.path, decode(x.body, x.encoding)) {
		if err := v.ask(r); err != nil {
			return err
		}
	}
	return nil
}

// control writes a frame of its own.
func (v *visit) control(write func() error) error {
	v.turn.take()
	defer v.turn.give()
	return write()
}

func (v *visit) serve1() error {
	// A head is kept in memory, a body is not.
	bounded := &io.LimitedReader{R: v.rw}
	r := bufio.NewReader(bounded)
	for {
		bounded.N = maxHeader
		if _, err := r.Peek(1); err != nil {
			return err
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return err
		}
		bounded.N = math.MaxInt64
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
