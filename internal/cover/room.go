package cover

import (
	"net"
	"sync"
)

// What visitors make the site hold is estimated, in bytes (ADR 0026).
const (
	// roomy is how much of it all visitors together may make the site hold. When it is
	// more, those leave who have most of it.
	roomy = 8 << 20
	// fair is what nobody has to leave for: an ordinary request.
	fair = 24 << 10

	requestWeight = 16 << 10 // a request that is being answered, without what it said
	controlWeight = 128      // the answer to a PING or to SETTINGS, until it is sent
	// fieldWeight is for each byte of a header that has not ended: a field may be one byte
	// long (RFC 7541, section 6.1), and takes 40 in a list that grows by doubling.
	fieldWeight = 96
	// tinyHeader is how much of an HTTP/1.1 header is not worth more than its buffers. A
	// field of 5 bytes takes 130.
	tinyHeader      = 1 << 10
	tinyFieldWeight = 32
	// mostFrame is the longest frame that the server takes, in bytes, and mostFields the
	// weight of the longest header.
	mostFrame  = 1 << 20
	mostFields = 3 << 20
)

// room is what all visitors make the site hold.
type room struct {
	mu     sync.Mutex
	held   int
	visits map[*visit]struct{}
}

// visit is a visitor's connection, beneath TLS.
type visit struct {
	net.Conn
	room *room

	// Under the room's lock.
	held     int            // the sum of what follows, as the room knows it
	spoken   bool           // the site has said something: what comes is no hello any more
	silence  int            // bytes that came since it did, but for HTTP/2
	requests int            // weight of those over HTTP/1.1
	framed   bool           // HTTP/2 is spoken
	frame    int            // the longest one; the server keeps its buffer
	fields   int            // weight of a header that has not ended
	streams  map[uint32]int // weights of requests over HTTP/2
	controls int            // frames that wait to be answered
}

// enter returns the visit over a connection.
func (r *room) enter(c net.Conn) *visit {
	v := &visit{Conn: c, room: r}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.visits == nil {
		r.visits = make(map[*visit]struct{})
	}
	r.visits[v] = struct{}{}
	return v
}

// entrance makes visits of the connections that come.
type entrance struct {
	net.Listener
	room *room
}

func (e entrance) Accept() (net.Conn, error) {
	c, err := e.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(sendBuffer) // else it is as the system likes
	}
	return e.room.enter(c), nil
}

// leave forgets a visit. The room's lock is held.
func (r *room) leave(v *visit) {
	if _, ok := r.visits[v]; ok {
		delete(r.visits, v)
		r.held -= v.held
	}
}

// note has change write down what the visitor makes the site hold now. If it is too much of all
// together, those leave who have most.
func (v *visit) note(change func()) {
	var leave []*visit
	r := v.room
	r.mu.Lock()
	change()
	if _, ok := r.visits[v]; ok {
		now := v.weight()
		r.held += now - v.held
		v.held = now
	}
	for r.held > roomy {
		most := v
		for o := range r.visits {
			if o.held > most.held {
				most = o
			}
		}
		if most.held <= fair {
			break
		}
		r.leave(most)
		leave = append(leave, most)
	}
	r.mu.Unlock()
	for _, o := range leave {
		_ = o.Conn.Close() // at once: a close_notify may have to wait, too
	}
}

// over reports whether the visitor had to leave, or has left.
func (v *visit) over() bool {
	v.room.mu.Lock()
	defer v.room.mu.Unlock()
	_, ok := v.room.visits[v]
	return !ok
}

func (v *visit) weight() int {
	w := v.requests + v.fields + v.controls*controlWeight
	if !v.framed {
		w += 2 * v.silence // in buffers that grow by doubling
		if v.spoken {
			w += max(0, v.silence-tinyHeader) * tinyFieldWeight
		}
	}
	if v.frame > 16<<10 { // what every connection has
		w += v.frame
	}
	for _, weight := range v.streams {
		w += weight
	}
	return w
}

func (v *visit) Read(b []byte) (int, error) {
	n, err := v.Conn.Read(b)
	v.note(func() { v.silence += n })
	return n, err
}

func (v *visit) Write(b []byte) (int, error) {
	v.note(func() { v.spoken, v.silence = true, 0 })
	return v.Conn.Write(b)
}

func (v *visit) Close() error {
	v.room.mu.Lock()
	v.room.leave(v)
	v.room.mu.Unlock()
	return v.Conn.Close()
}
