package rule

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"busel/scripts/lab/censor/packet"
)

// why says why a rule acts on a packet.
type why uint8

const (
	alone why = iota // the packet made it fire
	later            // so it did, but what lasts begins later
	held             // the packet is of what it holds
)

// act does to a packet what the rule says.
func (s *Set) act(t *track, f *flow, p *seen, v *Verdict, because why) {
	r := t.live
	r.count.Packets++
	r.count.Bytes += uint64(len(p.Bytes))
	if !t.counted {
		t.counted = true
		r.count.Flows++
	}
	before := len(v.Inject)
	lost := because != later && s.loses(t, f, p)
	s.inject(t, p, v, because == held, lost)
	r.count.Injected += uint64(len(v.Inject) - before)
	if lost {
		v.Drop = true
		r.count.Dropped++
	}
}

// loses decides whether a packet that the rule acts on is dropped.
func (s *Set) loses(t *track, f *flow, p *seen) bool {
	a := &t.spec.Act
	drop := a.Drop == "both" || a.Drop == "up" && p.direction == Up || a.Drop == "down" && p.direction == Down
	if drop && a.Loss != nil {
		drop = s.rand.Float64() < *a.Loss
	}
	return drop || a.Police != nil && !t.bucket(t, f, p.direction).take(p.now, len(p.Bytes), a.Police)
}

// bucket finds the token bucket for a packet.
func (r *live) bucket(t *track, f *flow, d Direction) *bucket {
	if r.spec.Act.Police.By != "client" {
		if t.buckets == nil {
			t.buckets = new([2]bucket)
		}
		return &t.buckets[d]
	}
	client := f.key.client.Addr()
	if r.buckets[client] == nil {
		if len(r.buckets) >= maxKeys {
			clear(r.buckets)
		}
		r.buckets[client] = new([2]bucket)
	}
	return &r.buckets[client][d]
}

// A bucket polices: what exceeds its rate is lost, nothing waits.
type bucket struct {
	tokens float64 // bytes
	last   time.Time
}

func (b *bucket) take(now time.Time, size int, p *police) bool {
	const bytesPerKbit = 125
	if b.last.IsZero() {
		b.tokens = float64(p.Burst)
	} else {
		b.tokens = min(float64(p.Burst), b.tokens+now.Sub(b.last).Seconds()*p.Kbit*bytesPerKbit)
	}
	b.last = now
	if b.tokens < float64(size) {
		return false
	}
	b.tokens -= float64(size)
	return true
}

// inject adds what the rule sends because of a packet: one that it holds or one
// that made it fire; one that is lost or not.
func (s *Set) inject(t *track, p *seen, v *Verdict, held, lost bool) {
	a := &t.spec.Act
	send := func(forged []byte, toward Direction, after time.Duration) {
		v.Inject = append(v.Inject, Injection{forged, toward, after})
	}
	if a.Answer != nil && p.direction == Up && p.Protocol == packet.UDP && !held {
		if forged := forgeAnswer(p, a.Answer); forged != nil {
			send(forged, Down, s.delay(t.spec))
		}
	}
	if p.Protocol != packet.TCP || !p.Transport() || p.Has(packet.RST) {
		return
	}
	if a.Page != nil && p.direction == Up && len(p.Payload) > 0 && !held {
		send(forgePage(p, lost, a.Page), Down, s.delay(t.spec))
	}
	// A held flow is reset again whenever the client opens it or sends data.
	asks := p.direction == Up && (p.Has(packet.SYN) || len(p.Payload) > 0)
	if a.Reset == nil || held && (t.holdBy == byFlow || !asks) {
		return
	}
	for range cmp.Or(a.Reset.Count, 1) {
		after := s.delay(t.spec)
		if a.Reset.Toward != "world" {
			send(forgeReset(p, Down, lost, a.Reset), Down, after)
		}
		if a.Reset.Toward != "client" {
			send(forgeReset(p, Up, lost, a.Reset), Up, after)
		}
	}
}

// forge begins a segment that goes the given way in the connection of p, as if
// the other end had sent it. It continues where p leaves off, for an end that p
// reaches, and where p begins if it is lost: a RST counts only if its number is
// exactly the next (RFC 5961).
func forge(p *seen, toward Direction, lost bool) packet.Segment {
	next := p.Seq + uint32(len(p.Payload))
	if p.Flags&(packet.SYN|packet.FIN) != 0 {
		next++
	}
	if toward != p.direction {
		return packet.Segment{Header: packet.Header{Src: p.Dst, Dst: p.Src}, Seq: p.Ack, Ack: next}
	}
	if lost {
		next = p.Seq
	}
	return packet.Segment{Header: packet.Header{Src: p.Src, Dst: p.Dst}, Seq: next, Ack: p.Ack}
}

func forgeReset(p *seen, toward Direction, lost bool, r *reset) []byte {
	s := forge(p, toward, lost)
	s.Flags, s.Window, s.Payload = packet.RST|packet.ACK, r.Window, r.Payload
	s.TTL, s.ID, s.DF = r.TTL, r.ID, r.DF
	if r.Zero {
		s.Seq, s.Ack = 0, 0
	}
	return s.Build()
}

// pageWindow is a usual one; the connection ends with the page.
const pageWindow = 1024

func forgePage(p *seen, lost bool, w *page) []byte {
	s := forge(p, Down, lost)
	s.Flags, s.Window = packet.PSH|packet.ACK|packet.FIN, pageWindow
	var text strings.Builder
	fmt.Fprintf(&text, "HTTP/1.1 %s\r\n", w.Status)
	if w.Location != "" {
		fmt.Fprintf(&text, "Location: %s\r\n", w.Location)
	}
	fmt.Fprintf(&text, "Content-Type: text/html\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(w.Body), w.Body)
	s.Payload = []byte(text.String())
	return s.Build()
}

func forgeAnswer(p *seen, a *answer) []byte {
	message, err := packet.Answer(p.Payload, a.Addresses, a.TTL)
	if err != nil {
		return nil
	}
	d := packet.Datagram{Header: packet.Header{Src: p.Dst, Dst: p.Src}, Payload: message}
	return d.Build()
}
