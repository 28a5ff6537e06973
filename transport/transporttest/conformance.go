package transporttest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"busel/internal/wire"
	"busel/transport"
)

// patience is how long the suite waits for what must happen at once.
const patience = 60 * time.Second

// TestCarrier runs the conformance suite. makePair returns two connected live
// carriers and registers their Close with t.Cleanup.
func TestCarrier(t *testing.T, makePair func(t *testing.T) (client, relay transport.Carrier)) {
	t.Helper()
	both := func(name string, f func(t *testing.T, from, to transport.Carrier)) {
		t.Run(name, func(t *testing.T) {
			t.Run("up", func(t *testing.T) {
				c, r := makePair(t)
				f(t, c, r)
			})
			t.Run("down", func(t *testing.T) {
				c, r := makePair(t)
				first(t, c, r)
				f(t, r, c)
			})
		})
	}
	both("sizes", testSizes)
	both("batches", testBatches)
	both("retention", testRetention)
	t.Run("duplex", func(t *testing.T) { testDuplex(t, makePair) })
	both("close unblocks read", testCloseRead)
	both("close unblocks write", testCloseWrite)
	both("end is seen", testEnd)
}

// first moves one frame up: a relay may not speak before its client (rule 7).
func first(t *testing.T, client, relay transport.Carrier) {
	t.Helper()
	r := reader{c: relay}
	written := make(chan error, 1)
	go func() {
		written <- client.WriteFrames([]transport.Frame{{Data: (&wire.Frame{Type: wire.Ping}).Append(nil)}})
	}()
	if f := r.next(t); f.Type != wire.Ping {
		t.Fatalf("first frame is %v", f.Type)
	}
	if err := <-written; err != nil { // the next caller must not overlap
		t.Fatalf("WriteFrames: %v", err)
	}
}

// unsplit is the longest STREAM frame that every carrier delivers in one piece
// ([transport.Carrier]).
const unsplit = 256

// streamFrame is a STREAM frame of exactly size bytes, numbered by its offset: by
// all of it if it is short, else by number, length of the data and 0, of which
// pieces have their own place instead.
func streamFrame(t *testing.T, i uint64, size int) transport.Frame {
	t.Helper()
	n, offset := size, i
	length := func() int {
		if offset = i; size > unsplit {
			offset = i<<32 | uint64(n)<<16
		}
		return wire.StreamHeaderLen(8, offset, n) + n
	}
	for n > 0 && length() > size {
		n--
	}
	f := wire.Frame{Type: wire.Stream, ID: 8, Offset: offset, Data: pattern(i, n)}
	return transport.Frame{Lane: 8, Data: f.Append(nil)}
}

// number is the reverse of streamFrame: which frame f belongs to, where it begins
// in that, and how many bytes of it follow.
func number(f *wire.Frame) (i uint64, at, left int) {
	if f.Offset < 1<<16 {
		return f.Offset, 0, 0
	}
	at = int(f.Offset & 0xffff)
	return f.Offset >> 32, at, int(f.Offset>>16&0xffff) - at - len(f.Data)
}

func pattern(i uint64, n int) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)})
	rng.Read(b)
	return b
}

// reader takes single frames off a carrier, without PADDING.
type reader struct {
	c    transport.Carrier
	buf  [wire.MaxFrame]byte
	left []byte
	err  error
}

func (r *reader) read() (f wire.Frame, ok bool) {
	for {
		for len(r.left) == 0 {
			n, err := r.c.ReadFrames(r.buf[:])
			if err != nil {
				r.err = err
				return f, false
			}
			r.left = r.buf[:n]
		}
		n, err := wire.Parse(r.left, &f)
		if err != nil {
			r.err = err
			return f, false
		}
		r.left = r.left[n:]
		if f.Type != wire.Padding {
			return f, true
		}
	}
}

func (r *reader) next(t *testing.T) wire.Frame {
	t.Helper()
	watchdog := time.AfterFunc(patience, func() { r.c.Close() })
	defer watchdog.Stop()
	f, ok := r.read()
	if !ok {
		t.Fatalf("ReadFrames: %v", r.err)
	}
	return f
}

func (r *reader) expect(t *testing.T, i uint64) {
	t.Helper()
	watchdog := time.AfterFunc(patience, func() { r.c.Close() })
	defer watchdog.Stop()
	if err := r.whole(i); err != nil {
		t.Fatal(err)
	}
}

// whole reads frame i, in one piece or several.
func (r *reader) whole(i uint64) error {
	for at := 0; ; {
		f, ok := r.read()
		if !ok {
			return fmt.Errorf("ReadFrames: %w", r.err)
		}
		got, from, left := number(&f)
		if f.Type != wire.Stream || got != i || from != at {
			return fmt.Errorf("got %v %d at %d, want STREAM %d at %d", f.Type, got, from, i, at)
		}
		at += len(f.Data)
		if !bytes.Equal(f.Data, pattern(i, at)[from:]) {
			return fmt.Errorf("frame %d is damaged in its %d bytes at %d", i, len(f.Data), from)
		}
		if left <= 0 {
			return nil
		}
	}
}

// write runs f, which writes, beside the test's reading.
func write(t *testing.T, f func() error) (wait func()) {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return func() {
		t.Helper()
		if err := <-done; err != nil {
			t.Fatalf("WriteFrames: %v", err)
		}
	}
}

func testSizes(t *testing.T, from, to transport.Carrier) {
	sizes := []int{6, 7, 8, 63, 64, 70, 255, 256, 1023, 1024, 4096, 8191, 8192, 16383 - 24, 16360, 16370, wire.MaxFrame - 3, wire.MaxFrame - 2, wire.MaxFrame - 1, wire.MaxFrame}
	wait := write(t, func() error {
		for i, size := range sizes {
			if err := from.WriteFrames([]transport.Frame{streamFrame(t, uint64(i), size)}); err != nil {
				return err
			}
		}
		return nil
	})
	r := reader{c: to}
	for i := range sizes {
		r.expect(t, uint64(i))
	}
	wait()
}

func testBatches(t *testing.T, from, to transport.Carrier) {
	var batches [][]transport.Frame
	n := uint64(0)
	for _, b := range []struct{ count, size int }{{1, 6}, {2, 6}, {256, 20}, {4, wire.MaxFrame}, {3, 9000}, {64, 1200}, {2, wire.MaxFrame}} {
		var batch []transport.Frame
		for range b.count {
			batch = append(batch, streamFrame(t, n, b.size))
			n++
		}
		batches = append(batches, batch)
	}
	// Large and small frames in one batch.
	var mixed []transport.Frame
	for i := range 20 {
		mixed = append(mixed, streamFrame(t, n, []int{6, wire.MaxFrame, 40, 3000}[i%4]))
		n++
	}
	batches = append(batches, mixed)
	wait := write(t, func() error {
		for _, b := range batches {
			if err := from.WriteFrames(b); err != nil {
				return err
			}
		}
		return nil
	})
	r := reader{c: to}
	for i := range n {
		r.expect(t, i)
	}
	wait()
}

func testRetention(t *testing.T, from, to transport.Carrier) {
	const count = 64
	wait := write(t, func() error {
		for i := range uint64(count) {
			batch := []transport.Frame{streamFrame(t, 2*i, 3000), streamFrame(t, 2*i+1, wire.MaxFrame)}
			if err := from.WriteFrames(batch); err != nil {
				return err
			}
			for _, f := range batch {
				for j := range f.Data {
					f.Data[j] = 0xa5
				}
			}
			clear(batch)
		}
		return nil
	})
	r := reader{c: to}
	for i := range uint64(2 * count) {
		r.expect(t, i)
	}
	wait()
}

func testDuplex(t *testing.T, makePair func(t *testing.T) (client, relay transport.Carrier)) {
	c, r := makePair(t)
	const count = 300
	first(t, c, r)
	var wg sync.WaitGroup
	for _, from := range []transport.Carrier{c, r} {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, 2))
			for i := uint64(0); i < count; {
				var batch []transport.Frame
				for range 1 + rng.IntN(5) {
					if i == count {
						break
					}
					batch = append(batch, streamFrame(t, i, 6+rng.IntN(wire.MaxFrame-5)))
					i++
				}
				if err := from.WriteFrames(batch); err != nil {
					t.Errorf("WriteFrames: %v", err)
					return
				}
			}
		})
	}
	for _, to := range []transport.Carrier{c, r} {
		wg.Go(func() {
			rd := reader{c: to}
			watchdog := time.AfterFunc(patience, func() { to.Close() })
			defer watchdog.Stop()
			for i := range uint64(count) {
				if err := rd.whole(i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func testCloseRead(t *testing.T, _, to transport.Carrier) {
	errs := make(chan error, 1)
	go func() {
		r := reader{c: to}
		r.read()
		errs <- r.err
	}()
	if err := to.Close(); err != nil {
		t.Logf("Close: %v", err)
	}
	await(t, errs, "ReadFrames was not unblocked by Close")
	var buf [wire.MaxFrame]byte
	if _, err := to.ReadFrames(buf[:]); err == nil {
		t.Error("ReadFrames worked after Close")
	}
	if err := to.WriteFrames([]transport.Frame{streamFrame(t, 0, 100)}); err == nil {
		t.Error("WriteFrames worked after Close")
	}
	to.Close() // idempotent
}

func testCloseWrite(t *testing.T, from, _ transport.Carrier) {
	batch := []transport.Frame{streamFrame(t, 0, wire.MaxFrame), streamFrame(t, 1, wire.MaxFrame)}
	var count atomic.Int64
	errs := make(chan error, 1)
	go func() {
		for {
			if err := from.WriteFrames(batch); err != nil {
				errs <- err
				return
			}
			count.Add(1)
		}
	}()
	// Nobody reads: wait until the path is full, that is until nothing moved
	// for a while. A path that takes 256 MiB unread is a fault of its own.
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for last := int64(-1); ; {
		<-tick.C
		now := count.Load()
		if now == last {
			break
		}
		if last = now; now > 8192 {
			t.Fatal("WriteFrames never blocks")
		}
	}
	from.Close()
	await(t, errs, "WriteFrames was not unblocked by Close")
	if err := from.WriteFrames(batch); err == nil {
		t.Error("WriteFrames worked after an error")
	}
}

func testEnd(t *testing.T, from, to transport.Carrier) {
	go from.WriteFrames([]transport.Frame{streamFrame(t, 0, 500)})
	r := reader{c: to}
	r.expect(t, 0)
	from.Close()
	errs := make(chan error, 1)
	go func() {
		for {
			if _, ok := r.read(); !ok {
				errs <- r.err
				return
			}
		}
	}()
	await(t, errs, "the peer's Close was not seen")
	for range 3 {
		if _, ok := r.read(); ok {
			t.Error("ReadFrames worked after an error")
		}
	}
}

func await(t *testing.T, errs <-chan error, what string) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case err := <-errs:
		if err == nil {
			t.Error("no error")
		}
	case <-timer.C:
		t.Fatal(what)
	}
}
