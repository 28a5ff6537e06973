//go:build linux

package prober

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

// threshold searches for the number of bytes on which a server ends a
// connection that stays open for fewer (THREATS.md, row P2: proxies read a
// header of a fixed length and then close).
type threshold struct {
	payload func(n int) []byte
	most    int // bytes
}

// thresholds are searches with bytes of several kinds; hello is a ClientHello.
func thresholds(hello []byte) []Probe {
	const most = 64 << 10 // bytes; every threshold of row P2 is below 18 kB
	noise := randomBytes(2 * most)
	noise[0] |= 0x80 // no letter, with which a request line could begin
	search := func(name string, payload func(n int) []byte) Probe {
		return Probe{Name: "close threshold: " + name, threshold: &threshold{payload, most}}
	}
	return []Probe{
		search("random bytes", func(n int) []byte { return noise[:n] }),
		search("zero bytes", func(n int) []byte { return make([]byte, n) }),
		search("a request line without an end", func(n int) []byte {
			return []byte("GET /" + strings.Repeat("a", n))[:n]
		}),
		search("a ClientHello, then zero bytes", func(n int) []byte { return append(slices.Clone(hello), make([]byte, n)...) }),
		search("a ClientHello, then records of random bytes", func(n int) []byte {
			return append(slices.Clone(hello), InRecords(append([]byte{0x17, 3, 3, 0, 0}, noise[:n]...), 1000)...)
		}),
	}
}

// quiet is how long a server may take to end a connection for what it read. It
// is shorter than the time-out for a header of any usual server, and longer
// than a round trip.
const quiet = 400 * time.Millisecond

// find searches by doubling and halving, and notes the threshold and how the
// server ends on it, a byte and a segment beyond it: a server that leaves bytes
// unread turns its FIN into a RST.
func (h *threshold) find(ctx context.Context, p *Prober, t Target) ([]event, error) {
	open, closed := 0, 1 // bytes that keep it open, bytes that end it
	for ; closed <= h.most; open, closed = closed, 2*closed {
		if end, err := h.try(ctx, p, t, closed); err != nil {
			return nil, err
		} else if end != "" {
			break
		}
	}
	if closed > h.most {
		return []event{{what: fmt.Sprintf("open after %d bytes", open)}}, nil
	}
	for closed-open > 1 {
		middle := (open + closed) / 2
		end, err := h.try(ctx, p, t, middle)
		switch {
		case err != nil:
			return nil, err
		case end == "":
			open = middle
		default:
			closed = middle
		}
	}
	var events []event
	for _, more := range []int{0, 1, 1448} {
		end, err := h.try(ctx, p, t, closed+more)
		if err != nil {
			return nil, err
		}
		events = append(events, event{what: fmt.Sprintf("%d bytes: %s", closed+more, end)})
	}
	return events, nil
}

// try sends n bytes and says how the server ends the connection, "" if it does
// not.
func (h *threshold) try(ctx context.Context, p *Prober, t Target, n int) (string, error) {
	c, tap, err := t.dial(ctx, false)
	if err != nil {
		return "", err
	}
	tap.close()
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	_, _ = c.Write(h.payload(n))
	_ = c.SetReadDeadline(time.Now().Add(quiet))
	answer, err := io.ReadAll(onlyReader{c})
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && len(answer) == 0:
		return "", nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Sprintf("%d bytes and open", len(answer)), nil
	case err != nil && !errors.Is(err, net.ErrClosed):
		return fmt.Sprintf("%d bytes and %s", len(answer), errno(err)), nil
	}
	return fmt.Sprintf("%d bytes and FIN", len(answer)), ctx.Err()
}

// onlyReader hides WriteTo, which would look for a splice.
type onlyReader struct{ io.Reader }
