package quic

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	quicgo "github.com/quic-go/quic-go"

	"busel/internal/wire"
	"busel/transport"
)

const (
	// laneStreams is how many unidirectional streams each end has for its lanes.
	laneStreams = 32
	// maxWrite is how much is handed to a QUIC stream at a time, in bytes.
	maxWrite = 64 << 10
	// linger is how long an end that closed waits for the other one to do so, so
	// that what it said last arrives.
	linger = time.Second
)

var (
	errDone     = errors.New("the other end closed the carrier")
	errChunk    = errors.New("a chunk has no acceptable length")
	errFrameLen = errors.New("frame is shorter than 2 or longer than 16377 bytes")
)

// carrier implements [transport.Carrier] on a QUIC connection that has said
// hello. Its life is run.
type carrier struct {
	ways
	inbox
	turn  chan struct{} // the right to write, also to end
	buf   []byte        // of the writer
	pools *sync.Pool    // of *[wire.MaxFrame]byte
	heard transport.Heard

	mu    sync.Mutex
	lanes [laneStreams]sendStream // opened when first used
}

// ways are what a carrier's two forms differ in.
type ways struct {
	conn    *quicgo.Conn
	control controlStream
	// open opens a stream for a lane, and accept waits for one of the other end's.
	open   func() (sendStream, error)
	accept func(context.Context) (io.Reader, error)
	bye    quicgo.ApplicationErrorCode // of an end in good order
}

// sendStream is where a lane's chunks go.
type sendStream interface {
	io.Writer
	SetWriteDeadline(time.Time) error
}

// controlStream is the control lane, both ways. Close ends the sending one.
type controlStream interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// scrambledWays are those of a connection that is nothing but a carrier.
func scrambledWays(conn *quicgo.Conn, control *quicgo.Stream) ways {
	return ways{
		conn: conn, control: control,
		open:   func() (sendStream, error) { return conn.OpenUniStream() },
		accept: func(ctx context.Context) (io.Reader, error) { return conn.AcceptUniStream(ctx) },
	}
}

func newCarrier(w ways) *carrier {
	c := &carrier{ways: w, turn: make(chan struct{}, 1)}
	c.inbox.init()
	c.pools = &sync.Pool{New: func() any { return new([wire.MaxFrame]byte) }}
	c.turn <- struct{}{}
	return c
}

// run moves what arrives to the reader until the carrier has ended, and returns
// when the connection is closed and nothing of it runs.
func (c *carrier) run() {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx := c.conn.Context()
	left := make(chan struct{}) // closed when the other end says nothing more
	wg.Go(func() {
		c.end(c.readChunks(c.control))
		_, _ = io.Copy(io.Discard, c.control)
		close(left)
	})
	wg.Go(func() {
		for {
			s, err := c.accept(ctx)
			if err != nil {
				c.end(judge(err))
				return
			}
			wg.Go(func() {
				if err := c.readChunks(s); !errors.Is(err, errDone) {
					c.end(err)
				}
			})
		}
	})
	wg.Go(func() {
		for {
			d, err := c.conn.ReceiveDatagram(ctx)
			if err != nil {
				c.end(judge(err))
				return
			}
			if len(d) >= 2 && !c.deliver(d) {
				return
			}
		}
	})
	<-c.dead
	c.part(left)
	_ = c.conn.CloseWithError(c.bye, "")
}

// part says FIN on the control lane and waits for the other end to do so.
func (c *carrier) part(left <-chan struct{}) {
	past := time.Unix(1, 0)
	c.mu.Lock()
	for _, s := range c.lanes {
		if s != nil {
			_ = s.SetWriteDeadline(past)
		}
	}
	c.mu.Unlock()
	_ = c.control.SetWriteDeadline(past)
	t := time.NewTimer(linger)
	defer t.Stop()
	select {
	case <-c.turn: // the writer has left
		_ = c.control.Close()
	case <-t.C: // it waits to send a datagram, which only the connection's end stops
		return
	}
	select {
	case <-left:
	case <-t.C:
	}
}

// listened notes when something is read.
type listened struct {
	io.Reader
	heard *transport.Heard
}

func (r listened) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.heard.Note(n)
	return n, err
}

// Heard is when bytes of chunks came last.
func (c *carrier) Heard() time.Time { return c.heard.Last() }

// readChunks takes chunks off a stream until it ends, and says why it did.
func (c *carrier) readChunks(s io.Reader) error {
	s = listened{s, &c.heard}
	var head [2]byte
	for {
		if _, err := io.ReadFull(s, head[:]); err != nil {
			return judge(err)
		}
		n := int(binary.BigEndian.Uint16(head[:]))
		if n < 2 || n > wire.MaxFrame {
			return &transport.CarrierError{Failure: transport.ClosedEarly, Err: errChunk}
		}
		// A chunk is whole before it takes room in the reader's buffer: other lanes
		// do not wait for its missing packets.
		buf := c.pools.Get().(*[wire.MaxFrame]byte)
		_, err := io.ReadFull(s, buf[:n])
		if err == nil && !c.deliver(buf[:n]) {
			err = net.ErrClosed
		}
		c.pools.Put(buf)
		if err != nil {
			return judge(err)
		}
	}
}

// WriteFrames implements [transport.Carrier].
func (c *carrier) WriteFrames(batch []transport.Frame) error {
	for _, f := range batch {
		if len(f.Data) < 2 || len(f.Data) > wire.MaxFrame {
			return errFrameLen
		}
	}
	select {
	case <-c.dead:
		return c.err
	case <-c.turn:
	}
	defer func() { c.turn <- struct{}{} }()
	for len(batch) > 0 {
		if c.ended() {
			return c.err
		}
		n, err := c.write(batch)
		if err != nil {
			c.end(judge(err))
			return c.err
		}
		batch = batch[n:]
	}
	return nil
}

// write sends the beginning of batch, as much as goes in one call, and returns
// how many frames.
func (c *carrier) write(batch []transport.Frame) (n int, err error) {
	if batch[0].Lane == transport.LaneDatagram {
		err := c.conn.SendDatagram(batch[0].Data)
		if _, large := errors.AsType[*quicgo.DatagramTooLargeError](err); !large {
			return 1, err
		}
	}
	lane := laneOf(batch[0].Lane)
	joins := func() bool { // a datagram only if it was too large for one
		return n == 0 || n < len(batch) && laneOf(batch[n].Lane) == lane && batch[n].Lane != transport.LaneDatagram
	}
	c.buf = c.buf[:0]
	for joins() && len(c.buf) < maxWrite-wire.MaxFrame {
		start := len(c.buf)
		c.buf = append(c.buf, 0, 0)
		for joins() && len(c.buf)-start-2+len(batch[n].Data) <= wire.MaxFrame {
			c.buf = append(c.buf, batch[n].Data...)
			n++
		}
		binary.BigEndian.PutUint16(c.buf[start:], uint16(len(c.buf)-start-2))
	}
	w, err := c.stream(lane)
	if err != nil {
		return 0, err
	}
	_, err = w.Write(c.buf)
	return n, err
}

// controlLane is the number of the control lane; others are 0..laneStreams-1.
const controlLane = -1

func laneOf(l transport.Lane) int {
	switch l {
	case transport.LaneControl:
		return controlLane
	case transport.LaneDatagram:
		return 0
	}
	return int(l / 2 % laneStreams)
}

// stream is where a lane's chunks go.
func (c *carrier) stream(lane int) (io.Writer, error) {
	if lane == controlLane {
		return c.control, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lanes[lane] == nil {
		if c.ended() {
			return nil, c.err
		}
		s, err := c.open()
		if err != nil {
			return nil, err
		}
		c.lanes[lane] = s
	}
	return c.lanes[lane], nil
}

// ReadFrames implements [transport.Carrier].
func (c *carrier) ReadFrames(buf []byte) (int, error) { return c.inbox.readFrames(buf) }

// Properties implements [transport.Carrier].
func (c *carrier) Properties() transport.Properties {
	return transport.Properties{Kind: Kind, CoverIdle: idleTimeout}
}

// Close implements [transport.Carrier].
func (c *carrier) Close() error {
	c.end(net.ErrClosed)
	return nil
}
