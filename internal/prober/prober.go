//go:build linux

package prober

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// Target is a server to be probed.
type Target struct {
	Name    string // for messages
	Address string // IP address and port
	// Inside runs f in the network namespace that the server is probed from; nil
	// means where we are. f makes sockets and starts no goroutine that does.
	Inside func(f func() error) error
}

// Prober says whom to ask for and how closely to look. The zero value of all
// but Name is ready to use.
type Prober struct {
	// Name is the site's host name, for SNI and Host. Certificates are compared,
	// not verified.
	Name string
	// Path is of something small that the site serves; "" means "/".
	Path string
	// Patience is how long a probe waits for a server to do something: what a
	// server does later is not seen. 0 means 10 s, after which real probers have
	// given up (THREATS.md, row C2).
	Patience time.Duration
	// Tolerance is how far apart the same event may be on the two targets; 0
	// means 50 ms.
	Tolerance time.Duration
	// Parallel is how many probes run at a time; 0 means 4.
	Parallel int
	// Attempts is how often a probe is repeated while something differs; 0 means
	// 4. What the scheduler did to one of the two connections is not seen four
	// times running; what a program does differently is. Probes that find something
	// have as many attempts again, one after the other when all are through, since
	// where a processor is short it is mostly other probes that delay one.
	Attempts int
	// Merged, if not nil, is told of segments that a forwarder sent together and
	// the server apart, which is no difference. It may be called at any time.
	Merged func(probe, segments string)
}

// Difference is something by which a probe tells two targets apart.
type Difference struct {
	Probe string `json:"probe"`
	A     string `json:"a"` // what the first target did
	B     string `json:"b"`
}

func (d Difference) String() string { return fmt.Sprintf("%s: %s | %s", d.Probe, d.A, d.B) }

// Probe is one way to look at a server.
type Probe struct {
	Name string
	// NotBefore is when the connection may begin at the earliest.
	NotBefore time.Time
	Steps     []Step

	multipath bool       // offers Multipath TCP
	threshold *threshold // of the bytes that end a connection, instead of Steps
}

// Compare runs probes against both targets and returns the differences, in the
// order of probes. An error means that one could not be probed at all.
func (p *Prober) Compare(ctx context.Context, a, b Target, probes []Probe) ([]Difference, error) {
	found := make([][]Difference, len(probes))
	errs := make([]error, len(probes))
	free := make(chan struct{}, orDefault(p.Parallel, 4))
	var wg sync.WaitGroup
	for i, probe := range probes {
		wg.Go(func() {
			if !sleep(ctx, time.Until(probe.NotBefore)) {
				errs[i] = context.Cause(ctx)
				return
			}
			free <- struct{}{}
			defer func() { <-free }()
			found[i], errs[i] = p.compare(ctx, a, b, probe)
		})
	}
	wg.Wait()
	for i, probe := range probes {
		if len(found[i]) > 0 {
			found[i], errs[i] = p.compare(ctx, a, b, probe)
		}
	}
	return slices.Concat(found...), errors.Join(errs...)
}

// observation is what a prober holds of one target in the end.
type observation struct {
	events   []event
	segments []segment
}

func (p *Prober) compare(ctx context.Context, a, b Target, probe Probe) (found []Difference, err error) {
	for range orDefault(p.Attempts, 4) {
		var wg sync.WaitGroup
		var seen [2]observation
		var errs [2]error
		for i, target := range []Target{a, b} {
			wg.Go(func() { seen[i], errs[i] = p.observe(ctx, target, probe) })
		}
		wg.Wait()
		for i, target := range []Target{a, b} {
			if errs[i] != nil {
				return nil, fmt.Errorf("%s: %s: %w", target.Name, probe.Name, errs[i])
			}
		}
		if found = p.differences(probe.Name, seen[0], seen[1]); len(found) == 0 {
			if p.Merged != nil && !slices.EqualFunc(seen[0].segments, seen[1].segments, segment.like) {
				p.Merged(probe.Name, fmt.Sprintf("%v | %v", seen[0].segments, seen[1].segments))
			}
			return nil, nil
		}
	}
	return found, nil
}

// observe lets a probe loose on one target.
func (p *Prober) observe(ctx context.Context, t Target, probe Probe) (o observation, err error) {
	if probe.threshold != nil {
		o.events, err = probe.threshold.find(ctx, p, t)
		return o, err
	}
	// The steps end by themselves: this only bounds a hang.
	ctx, cancel := context.WithTimeout(ctx, 2*p.patience()+10*time.Second)
	defer cancel()
	c, tap, err := t.dial(ctx, probe.multipath)
	if err != nil {
		return o, err
	}
	defer tap.close()
	v := p.visit(ctx, c)
	defer v.Close()
	if probe.multipath {
		on, err := c.MultipathTCP()
		v.note("Multipath TCP: %v, %v", on, err)
	}
	for _, step := range probe.Steps {
		step(v)
	}
	v.afterwards()
	return observation{v.observations(), tap.sentTo(v.client)}, nil
}

func (p *Prober) visit(ctx context.Context, c *net.TCPConn) *visit {
	return &visit{
		TCPConn: c, client: c.LocalAddr(), ctx: ctx, start: time.Now(), patience: p.patience(),
		stack: &tls.Config{ServerName: p.Name, InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}},
	}
}

// dial connects to the target, and listens for what it sends from before the
// connection on.
func (t Target) dial(ctx context.Context, multipath bool) (*net.TCPConn, *sniffer, error) {
	inside := t.Inside
	if inside == nil {
		inside = func(f func() error) error { return f() }
	}
	var c net.Conn
	var tap *sniffer
	err := inside(func() (err error) {
		if tap, err = capture(t.Address); err != nil {
			return err
		}
		d := net.Dialer{KeepAlive: -1}
		d.SetMultipathTCP(multipath)
		if c, err = d.DialContext(ctx, "tcp", t.Address); err != nil {
			tap.close()
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return c.(*net.TCPConn), tap, nil
}

// differences are what a prober could tell the two by.
func (p *Prober) differences(probe string, a, b observation) (out []Difference) {
	for i := range max(len(a.events), len(b.events)) {
		var x, y event
		if i < len(a.events) {
			x = a.events[i]
		}
		if i < len(b.events) {
			y = b.events[i]
		}
		if x.what != y.what {
			out = append(out, Difference{probe, x.what, y.what})
		} else if d := (x.at - y.at).Abs(); d > orDefault(p.Tolerance, 50*time.Millisecond) {
			at := func(e event) string { return fmt.Sprintf("%s: at %v", e.what, e.at.Round(time.Millisecond)) }
			out = append(out, Difference{probe, at(x), at(y)})
		}
	}
	if !slices.EqualFunc(mergeLike(a.segments, b.segments), b.segments, segment.like) {
		out = append(out, Difference{probe, fmt.Sprintf("segments %v", a.segments), fmt.Sprintf("segments %v", b.segments)})
	}
	return out
}

func (p *Prober) patience() time.Duration { return orDefault(p.Patience, 10*time.Second) }

func orDefault[T int | time.Duration](v, otherwise T) T {
	if v == 0 {
		return otherwise
	}
	return v
}

// sleep reports whether d has passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
