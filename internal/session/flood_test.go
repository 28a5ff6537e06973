package session

import (
	"context"
	"testing"

	"busel/internal/flow"
	"busel/internal/wire"
)

// BenchmarkRulings is a read of a client that rules its carriers to and fro, in a
// session with as many streams as it may have. Other sessions go on meanwhile, but
// share the processor.
func BenchmarkRulings(b *testing.B) {
	for _, bench := range []struct {
		name   string
		frames []wire.Frame
	}{
		{"suspect", []wire.Frame{{Type: wire.Carrier, ID: 1, State: wire.CarrierSuspect}, {Type: wire.Carrier, ID: 1, State: wire.CarrierActive}}},
		{"spare", []wire.Frame{{Type: wire.Carrier, ID: 1, State: wire.CarrierSpare}, {Type: wire.Carrier, ID: 1, State: wire.CarrierActive}}},
		{"none", []wire.Frame{{Type: wire.Carrier, ID: 0, State: wire.CarrierSpare}, {Type: wire.Carrier, ID: 1, State: wire.CarrierSpare}, {Type: wire.Carrier, ID: 1, State: wire.CarrierActive}}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			c := NewServer(ServerConfig{OnStream: func(context.Context, *Stream, flow.Addr) {}}).c
			c.mu.Lock()
			defer c.unlock()
			attach := func(n uint32) *attachment {
				a := c.newAttachment(n)
				a.carrier, a.live, a.proven, a.scratch = deadCarrier{}, true, true, make([]byte, 0, scratch)
				c.setOpen(a)
				return a
			}
			first, second := attach(0), attach(1)
			c.rule(first, wire.CarrierSpare) // all is in flight on the second one
			c.peerWindow = 1 << 40
			if _, err := c.find(2 * (maxStreams - 1)); err != nil {
				b.Fatal(err)
			}
			for _, s := range c.streams {
				if s.kind == kindUnknown {
					s.kind, s.replied = kindProxy, true
					s.push(make([]byte, 8<<10), 8<<10)
				}
			}
			for second.fill() {
				second.release()
			}
			c.rule(first, wire.CarrierActive)
			var read []byte
			for len(read) < wire.MaxFrame-64 {
				for _, f := range bench.frames {
					read = f.Append(read)
				}
			}
			for b.Loop() {
				if err := c.handle(first, read, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
