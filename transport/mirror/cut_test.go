package mirror

import (
	"math/rand/v2"
	"testing"

	"busel/internal/flow"
	"busel/internal/wire"
	"busel/obfs/records"
	"busel/transport"
)

// randomBatch is what a session might write: pieces of two streams, datagrams,
// control frames. at is how far the streams are.
func randomBatch(r *rand.Rand, at map[uint64]int) (batch []transport.Frame) {
	long := func() int { return min(r.IntN(wire.MaxFrame-30), r.IntN(wire.MaxFrame-30)+r.IntN(2)*wire.MaxFrame) }
	for range 1 + r.IntN(12) {
		f, lane := wire.Frame{Type: wire.Ping}, transport.LaneControl
		switch r.IntN(4) {
		case 0:
			f = wire.Frame{Type: wire.Datagram, ID: 1, Data: make([]byte, 1+long()), Addr: flow.Addr{Name: "a.example", Port: 1}}
			lane = transport.LaneDatagram
		case 1, 2:
			id := uint64(1 + r.IntN(2))
			f = wire.Frame{Type: wire.Stream, ID: id, Offset: uint64(at[id]), Data: pattern(at[id], long())}
			at[id] += len(f.Data)
			lane = transport.Lane(id)
		}
		batch = append(batch, transport.Frame{Lane: lane, Data: f.Append(nil)})
	}
	return batch
}

// Whatever a session writes and whichever cycle is followed, each record has a
// length that a covert one can have, and nothing is lost or changes its order.
func TestCutAnything(t *testing.T) {
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 1))
		cycle := []records.Cycle{records.GoHTTP2(), records.NginxHTTP2(), {}, {Block: 1<<14 + 9, Growing: true}}[seed%4]
		o := &outbox{cut: cycle.Begin()}
		sent, got := map[uint64]int{}, map[uint64]int{}
		for range 10 {
			batch := randomBatch(r, sent)
			want, have := map[wire.Type]int{}, map[wire.Type]int{}
			for _, f := range batch {
				want[wire.Type(f.Data[0])]++
			}
			var q queue
			for q.put(batch); ; {
				size, body := o.next(&q)
				if size == 0 {
					break
				}
				plain := q.whole(size - overhead)
				if plain == nil {
					plain = q.fill(nil, size-overhead)
				}
				if body {
					o.cut.Sent(len(plain) + overhead)
				} else {
					o.cut.Passed()
				}
				if len(plain) < 2 || len(plain) > maxPlain {
					t.Fatalf("seed %d: a record of %d bytes, %d were due", seed, len(plain)+overhead, size)
				}
				for len(plain) > 0 {
					var f wire.Frame
					n, err := wire.Parse(plain, &f)
					if err != nil {
						t.Fatalf("seed %d: %v", seed, err)
					}
					plain = plain[n:]
					have[f.Type]++
					if f.Type != wire.Stream {
						continue
					}
					if f.Offset != uint64(got[f.ID]) || string(f.Data) != string(pattern(got[f.ID], len(f.Data))) {
						t.Fatalf("seed %d: stream %d goes on at %d, want %d", seed, f.ID, f.Offset, got[f.ID])
					}
					got[f.ID] += len(f.Data)
				}
			}
			if have[wire.Datagram] != want[wire.Datagram] || have[wire.Ping] != want[wire.Ping] {
				t.Fatalf("seed %d: %v became %v", seed, want, have)
			}
		}
		for id, n := range sent {
			if got[id] != n {
				t.Fatalf("seed %d: %d bytes of stream %d, want %d", seed, got[id], id, n)
			}
		}
	}
}

// Datagrams that are longer than a growing record leave any number of bytes of
// the block, also fewer than a record has.
func TestCutLongDatagrams(t *testing.T) {
	for last := 6300; last < 6400; last++ {
		o := &outbox{cut: records.GoHTTP2().Begin()}
		for _, n := range []int{10000, last, 100} {
			f := wire.Frame{Type: wire.Datagram, ID: 1, Data: make([]byte, n), Addr: flow.Addr{Name: "a.example", Port: 1}}
			var q queue
			q.put([]transport.Frame{{Lane: transport.LaneDatagram, Data: f.Append(nil)}})
			for size, _ := o.next(&q); size != 0; size, _ = o.next(&q) {
				if size-overhead < 2 {
					t.Fatalf("a record of %d bytes is due after %d", size, last)
				}
				o.cut.Sent(len(q.fill(nil, size-overhead)) + overhead)
			}
		}
	}
}
