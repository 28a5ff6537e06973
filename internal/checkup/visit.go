package checkup

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"busel/transport"
	"busel/transport/mirror"
)

const (
	// visitTimeout bounds one visit that is not to wait for anything.
	visitTimeout = 15 * time.Second
	// parallelVisits are as many as a small relay has clients and strangers.
	parallelVisits = 100
	// crowdStall is after how long without a further connection that is open, or an
	// answer, no more is waited for: a site of one's own is near.
	crowdStall = 2 * time.Second
	// maxMissed is after how many connections without an answer no more are asked.
	maxMissed = 3
	// busyEvery is between the requests of a connection that is kept busy: less than
	// the idle limit of any cover that is of use.
	busyEvery = 4 * time.Second
)

// Visitor visits a site.
type Visitor struct {
	Network transport.Network
	Address string // host:port to dial
	Name    string // to ask for
	// Patience is how long idle and busy connections are watched; 0 means not at all.
	Patience time.Duration
	// Crowd says that the site may be visited by many at the same time. Somebody
	// else's may not.
	Crowd bool
	// HTTP3 asks for the first page over HTTP/3 at a UDP port of the site; nil means
	// that this is not tried.
	HTTP3 func(ctx context.Context, port uint16) error
}

// Visit finds out what the site is like.
func (v *Visitor) Visit(ctx context.Context) *Site {
	s := &Site{Tickets: -1}
	short, cancel := context.WithTimeout(ctx, visitTimeout)
	defer cancel()
	cover := mirror.Cover{Address: v.Address, Name: v.Name}
	report, err := mirror.CheckCover(short, v.Network, cover, mirror.Trust{})
	if err != nil {
		s.Err = err
		return s
	}
	s.TLS13, s.ALPN, s.Group, s.Retry, s.Status = report.TLS13, report.ALPN, report.Group, report.Retry, report.Status
	s.Leaf, s.NotAfter, s.SelfSigned, s.CertErr = report.LeafHash, report.NotAfter, report.SelfSigned, report.CertErr
	if _, unknown := errors.AsType[x509.UnknownAuthorityError](report.CertErr); s.SelfSigned || unknown {
		s.SelfSigned, s.CertErr = true, nil
	}
	v.tickets(short, s)
	if port, ok := h3Port(s.AltSvc); ok && v.HTTP3 != nil {
		s.HTTP3Err = v.HTTP3(short, port)
		s.HTTP3 = s.HTTP3Err == nil
	}
	if v.Crowd {
		s.Parallel, s.ParallelOf = v.crowd(short), parallelVisits
	}
	if v.Patience > 0 {
		v.wait(ctx, cover, s)
	}
	return s
}

// config is a TLS client's; nothing is trusted to the site, and its certificate was
// judged before.
func (v *Visitor) config() *tls.Config {
	return &tls.Config{ServerName: v.Name, InsecureSkipVerify: true}
}

func (v *Visitor) tickets(ctx context.Context, s *Site) {
	begin := time.Now()
	conn, err := v.Network.DialContext(ctx, "tcp", v.Address)
	if err != nil {
		return
	}
	s.RoundTrip = time.Since(begin)
	all, answer, err := hearTickets(ctx, conn, v.config())
	if err == nil && s.TLS13 {
		s.Tickets = len(all)
		for _, t := range all {
			s.EarlyData = max(s.EarlyData, t.earlyData)
		}
	}
	if r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answer)), nil); err == nil {
		s.HTTP1, s.AltSvc, s.Server = r.StatusCode, r.Header.Get("Alt-Svc"), r.Header.Get("Server")
		s.Date, _ = http.ParseTime(r.Header.Get("Date")) // zero if it has none
		_ = r.Body.Close()
	}
}

// crowd counts how many of many connections are served while all are open.
func (v *Visitor) crowd(ctx context.Context) (served int) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stall := time.AfterFunc(crowdStall, cancel)
	defer stall.Stop()
	conns := make([]net.Conn, parallelVisits)
	var wg sync.WaitGroup
	for i := range conns {
		wg.Go(func() {
			conn, err := v.Network.DialContext(ctx, "tcp", v.Address)
			if err != nil {
				return
			}
			c := tls.Client(conn, v.config())
			if c.HandshakeContext(ctx) != nil {
				_ = conn.Close()
				return
			}
			conns[i] = c
			stall.Reset(crowdStall)
		})
	}
	wg.Wait()
	// Asked only when all are open. A site that keeps some waiting would keep others.
	missed := 0
	for _, c := range conns {
		if c == nil {
			continue
		}
		defer c.Close()
		if missed == maxMissed {
			continue
		}
		_ = c.SetDeadline(time.Now().Add(crowdStall))
		if get(c, bufio.NewReader(c), v.Name) == nil {
			served++
		} else {
			missed++
		}
	}
	return served
}

// get asks for the first page over HTTP/1.1 and reads it.
func get(c net.Conn, r *bufio.Reader, name string) error {
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\n\r\n", hostOf(name)); err != nil {
		return err
	}
	answer, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<20))
	if err == nil && answer.Close {
		err = io.EOF
	}
	return err
}

// wait watches a quiet connection and a busy one, side by side.
func (v *Visitor) wait(ctx context.Context, cover mirror.Cover, s *Site) {
	ctx, cancel := context.WithTimeout(ctx, v.Patience)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		if idle, err := mirror.MeasureIdle(ctx, v.Network, cover, mirror.Trust{}); err == nil {
			s.Idle, s.IdleFor = idle, v.Patience
		}
	})
	wg.Go(func() {
		if life, err := v.busy(ctx); err == nil {
			s.Life, s.LifeFor = life, v.Patience
		}
	})
	wg.Wait()
}

// busy keeps one connection busy until the site or ctx ends it, and returns how long
// it lived; 0 if ctx ended first.
func (v *Visitor) busy(ctx context.Context) (time.Duration, error) {
	conn, err := v.Network.DialContext(ctx, "tcp", v.Address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c := tls.Client(conn, v.config())
	if err := c.HandshakeContext(ctx); err != nil {
		return 0, err
	}
	begin, r := time.Now(), bufio.NewReader(c)
	tick := time.NewTicker(min(busyEvery, v.Patience/10))
	defer tick.Stop()
	for {
		if err := get(c, r, v.Name); err != nil {
			if ctx.Err() != nil {
				return 0, nil
			}
			return time.Since(begin), nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, nil
		}
	}
}

// h3Port reads the UDP port of HTTP/3 from an Alt-Svc header (RFC 7838) as servers
// write it: h3=":443"; ma=...
func h3Port(altSvc string) (uint16, bool) {
	for part := range strings.SplitSeq(altSvc, ",") {
		rest, ok := strings.CutPrefix(strings.TrimSpace(part), `h3=":`)
		if !ok {
			continue
		}
		var port uint16
		if _, err := fmt.Sscanf(rest, `%d"`, &port); err == nil && port != 0 {
			return port, true
		}
	}
	return 0, false
}

// hostOf is a name as it stands in a Host field.
func hostOf(name string) string {
	if strings.Contains(name, ":") {
		return "[" + name + "]"
	}
	return name
}
