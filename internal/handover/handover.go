// Package handover lets a new relayd take the place of one that runs, without
// breaking a stream.
//
// The old process starts the new one and gives it its sockets over a link, a pair
// of Unix sockets that only the two of them have. Once the new one is ready the old
// one accepts nobody any more and drains: its sessions stay where they are, with
// their streams and the connections to where those go, until they end. A client
// whose carrier dies meanwhile dials the new process. That asks the old one whether
// the session is its, and if so passes the frames of the new carrier on to it
// (docs/adr/0016).
//
// On the link are messages, of which the first byte is the type:
//
//	type u8 | length u32 | body
//
// and over it pass descriptors, one with a message. A carrier has a pair of sockets
// of its own, which the new process makes and gives one end of. There a message is
//
//	length u32 | body
//
// and the first ones are the client's hello and the old process's accept payload
// as a transport would send them, and if that does not refuse, a byte that is 1 if
// all lanes share one order, and the name of the transport. Messages to the new
// process are then batches of frames, each lane u64, length u32, data; those to the
// old one are whole frames one after another, [wire.MaxFrame] bytes at most.
// Integers are big-endian.
//
// Both ends are builds of one program, though not of one version. Version says
// whether they understand each other; lengths are bounded as everywhere.
package handover

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"busel/internal/wire"
	"busel/transport"
)

// Version is that of the messages. It changes when a relayd could not hand over
// to one of another version any more.
const Version = 1

const (
	// answerTime bounds how long one process waits for the other's next message
	// while a client waits for an answer.
	answerTime = 5 * time.Second
	// maxMessage bounds a message, in bytes: far above a batch (64 KiB).
	maxMessage = 1 << 20
	frameHead  = 8 + 4
)

var (
	// ErrUnsupported means that this system cannot pass sockets to another process.
	ErrUnsupported = errors.New("a running relay cannot be replaced on this system")

	errMessage = errors.New("handover: message out of bounds")
)

// writeMessage writes one message in one call.
func writeMessage(w io.Writer, body []byte) error {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	_, err := w.Write(append(b, body...))
	return err
}

// readMessage reads a message of at most limit bytes into buf, or a longer buffer.
func readMessage(r io.Reader, buf []byte, limit int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > uint32(limit) {
		return nil, errMessage
	}
	if int(n) > cap(buf) {
		buf = make([]byte, n)
	}
	_, err := io.ReadFull(r, buf[:n])
	return buf[:n], err
}

// appendBatch appends a batch as it travels.
func appendBatch(b []byte, batch []transport.Frame) []byte {
	for _, f := range batch {
		b = binary.BigEndian.AppendUint64(b, uint64(f.Lane))
		b = binary.BigEndian.AppendUint32(b, uint32(len(f.Data)))
		b = append(b, f.Data...)
	}
	return b
}

// parseBatch appends the frames of a batch to dst. They alias b.
func parseBatch(dst []transport.Frame, b []byte) ([]transport.Frame, error) {
	for len(b) > 0 {
		if len(b) < frameHead {
			return nil, errMessage
		}
		lane, n := binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:])
		b = b[frameHead:]
		if n > wire.MaxFrame || int(n) > len(b) {
			return nil, errMessage
		}
		dst = append(dst, transport.Frame{Lane: transport.Lane(lane), Data: b[:n:n]})
		b = b[n:]
	}
	return dst, nil
}

// ask says a client's hello to the old process over a fresh pair. known is false
// if the session is none of its.
func ask(conn net.Conn, h *wire.Hello) (accept *wire.Accept, known bool, err error) {
	_ = conn.SetDeadline(time.Now().Add(answerTime))
	if err := writeMessage(conn, h.Append(nil)); err != nil {
		return nil, false, err
	}
	b, err := readMessage(conn, nil, maxMessage)
	if err != nil {
		return nil, false, err
	}
	if accept, err = wire.ParseAccept(b); err != nil {
		return nil, false, err
	}
	return accept, accept.Status != wire.StatusDraining, nil
}

// bridge passes the frames of a client's carrier on to the old process and back,
// until either ends or ctx does. It closes both.
func bridge(ctx context.Context, c transport.Carrier, conn net.Conn) error {
	closeBoth := func() {
		_ = c.Close()
		_ = conn.Close()
	}
	defer closeBoth()
	stop := context.AfterFunc(ctx, closeBoth)
	defer stop()
	p := c.Properties()
	order := byte(0)
	if p.Ordered {
		order = 1
	}
	if err := writeMessage(conn, append([]byte{order}, p.Kind...)); err != nil {
		return err
	}
	_ = conn.SetDeadline(time.Time{})
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer closeBoth()
		buf := make([]byte, 4+wire.MaxFrame)
		for {
			n, err := c.ReadFrames(buf[4:])
			if err != nil {
				return
			}
			binary.BigEndian.PutUint32(buf, uint32(n))
			if _, err := conn.Write(buf[:4+n]); err != nil {
				return
			}
		}
	})
	defer closeBoth()
	var buf []byte
	var batch []transport.Frame
	r := bufio.NewReader(conn)
	for {
		var err error
		if buf, err = readMessage(r, buf, maxMessage); err != nil {
			return &transport.CarrierError{Err: err}
		}
		if batch, err = parseBatch(batch[:0], buf); err != nil {
			return err
		}
		if err := c.WriteFrames(batch); err != nil {
			return err
		}
	}
}

// pending is a hello that came to the new process, seen from the old one.
type pending struct {
	conn  net.Conn
	hello *wire.Hello
}

var _ transport.Pending = (*pending)(nil)

// hear reads the hello from a fresh pair.
func hear(conn net.Conn) (*pending, error) {
	_ = conn.SetDeadline(time.Now().Add(answerTime))
	b, err := readMessage(conn, nil, maxMessage)
	if err != nil {
		return nil, err
	}
	h, err := wire.ParseHello(b)
	if err != nil {
		return nil, err
	}
	return &pending{conn, h}, nil
}

// Hello implements [transport.Pending].
func (p *pending) Hello() *wire.Hello { return p.hello }

// Close implements [transport.Pending].
func (p *pending) Close() error { return p.conn.Close() }

// Answer implements [transport.Pending].
func (p *pending) Answer(a *wire.Accept) (transport.Carrier, error) {
	fail := func(err error) (transport.Carrier, error) {
		_ = p.conn.Close()
		return nil, err
	}
	_ = p.conn.SetDeadline(time.Now().Add(2 * answerTime)) // the client's transport answers in between
	if err := writeMessage(p.conn, a.Append(nil)); err != nil {
		return fail(err)
	}
	if a.Status.Refused() {
		return fail(nil)
	}
	b, err := readMessage(p.conn, nil, 256)
	if err != nil {
		return fail(fmt.Errorf("client was not told: %w", err))
	}
	if len(b) == 0 {
		return fail(errMessage)
	}
	_ = p.conn.SetDeadline(time.Time{})
	return &carrier{
		conn: p.conn, in: bufio.NewReader(p.conn),
		properties: transport.Properties{Kind: string(b[1:]), Ordered: b[0] == 1},
	}, nil
}

// carrier is the old process's end of a client's carrier.
type carrier struct {
	conn       net.Conn
	in         *bufio.Reader
	out        []byte
	properties transport.Properties
}

var _ transport.Carrier = (*carrier)(nil)

// WriteFrames implements [transport.Carrier].
func (c *carrier) WriteFrames(batch []transport.Frame) error {
	c.out = appendBatch(append(c.out[:0], 0, 0, 0, 0), batch)
	if len(c.out)-4 > maxMessage {
		return errMessage
	}
	binary.BigEndian.PutUint32(c.out, uint32(len(c.out)-4))
	if _, err := c.conn.Write(c.out); err != nil {
		return &transport.CarrierError{Err: err}
	}
	return nil
}

// ReadFrames implements [transport.Carrier].
func (c *carrier) ReadFrames(buf []byte) (int, error) {
	b, err := readMessage(c.in, buf[:0:wire.MaxFrame], wire.MaxFrame)
	if err != nil {
		return 0, &transport.CarrierError{Err: err}
	}
	return len(b), nil
}

// Properties implements [transport.Carrier].
func (c *carrier) Properties() transport.Properties { return c.properties }

// Close implements [transport.Carrier].
func (c *carrier) Close() error { return c.conn.Close() }
