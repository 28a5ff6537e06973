package mirror

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	utls "github.com/refraction-networking/utls"

	"busel/transport"
)

// Trust says how a cover's certificate is judged, as in [DialerConfig].
type Trust struct {
	CertHash *[32]byte      // nil: verify the chain
	Roots    *x509.CertPool // nil: the built-in Mozilla roots
}

// CoverReport is what one genuine visit learned about a cover.
type CoverReport struct {
	TLS13      bool
	ALPN       string   // "h2", "http/1.1" or empty
	Group      uint16   // key exchange group that the cover chose at the first ClientHello (IANA); 0 if below TLS 1.3
	Retry      bool     // the cover sent a HelloRetryRequest
	Status     int      // of the answer to GET /
	LeafHash   [32]byte // SHA-256 of the leaf certificate, as invites pin it
	NotAfter   time.Time
	SelfSigned bool  // must be pinned by LeafHash
	CertErr    error // nil: the certificate is good, dates included
}

// Fit returns nil, or every reason why the cover cannot be used and what to do.
func (r *CoverReport) Fit() error {
	var errs []error
	if !r.TLS13 {
		errs = append(errs, errors.New("the cover does not speak TLS 1.3: turn it on (nginx: ssl_protocols TLSv1.2 TLSv1.3)"))
	} else if r.Retry || r.Group != groupX25519 && r.Group != groupX25519MLKEM768 {
		errs = append(errs, errors.New("the cover does not choose x25519 or X25519MLKEM768 at the first ClientHello: put X25519 first (nginx: ssl_ecdh_curve X25519:prime256v1)"))
	}
	if r.CertErr != nil {
		errs = append(errs, fmt.Errorf("%w: renew it, or give the relay the name it is for", r.CertErr))
	}
	if r.Status == 0 {
		errs = append(errs, errors.New("the cover does not answer GET /: look at its log"))
	}
	return errors.Join(errs...)
}

// CheckCover visits the cover once, as a client's browser look would, and says
// what it is like. The error is a connection that could not be made or a TLS
// handshake that failed; the report is then nil.
func CheckCover(ctx context.Context, network transport.Network, cover Cover, trust Trust) (*CoverReport, error) {
	g, err := dialGuest(ctx, network, cover, trust)
	if err != nil {
		return nil, err
	}
	defer g.close()
	if err := g.ask(); err == nil {
		g.report.Status, _ = g.answer(ctx)
	}
	return &g.report, nil
}

// MeasureIdle does one genuine visit with one request and waits for the cover's
// close. It returns how long the cover kept the idle connection, or 0 if that
// was still open when ctx ended.
func MeasureIdle(ctx context.Context, network transport.Network, cover Cover, trust Trust) (time.Duration, error) {
	g, err := dialGuest(ctx, network, cover, trust)
	if err != nil {
		return 0, err
	}
	defer g.close()
	if err := g.ask(); err != nil {
		return 0, bare(err)
	}
	if _, err := g.answer(ctx); err != nil {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return 0, fmt.Errorf("the cover closed without an answer: %w", bare(err))
	}
	begin := time.Now()
	select {
	case <-g.ended:
	case <-ctx.Done():
		return 0, nil
	}
	return time.Since(begin), nil
}

// guest is a genuine visit and nothing else.
type guest struct {
	conn   net.Conn
	ear    *ear
	tls    *utls.UConn
	visit  *visit
	report CoverReport
	status chan int
	ended  chan struct{} // closed when serve has returned with err
	err    error
	serves bool
}

// ear reads a connection and follows the ServerHello and the records in it.
type ear struct {
	net.Conn
	watch   helloWatch
	decided bool

	tracker tracker
	mu      sync.Mutex // guards what follows
	most    int        // how many lengths are kept
	lengths []int      // of the records since listen
}

// listen keeps the lengths of the next records, at most most.
func (e *ear) listen(most int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.most = most
}

// heard returns the lengths.
func (e *ear) heard() []int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.lengths)
}

func (e *ear) note(_ byte, size int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.lengths) < e.most {
		e.lengths = append(e.lengths, size)
	}
}

func (e *ear) Read(b []byte) (int, error) {
	n, err := e.Conn.Read(b)
	e.tracker.pass(b[:n])
	if !e.decided {
		_, o := e.watch.feed(b[:n])
		e.decided = o != needMore
	}
	return n, err
}

func dialGuest(ctx context.Context, network transport.Network, cover Cover, trust Trust) (*guest, error) {
	if network == nil {
		network = transport.System{KeepAlive: transport.BrowserKeepAlive}
	}
	v, err := newVerifier(cover.Name, trust.CertHash, trust.Roots)
	if err != nil {
		return nil, err
	}
	l, err := shipped()
	if err != nil {
		return nil, err
	}
	dial, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := network.DialContext(dial, "tcp", cover.Address)
	if err != nil {
		return nil, fmt.Errorf("the cover cannot be reached: %w", bare(err))
	}
	g := &guest{conn: conn, status: make(chan int, 1), ended: make(chan struct{})}
	hear := &ear{Conn: conn}
	hear.tracker.began = hear.note
	g.ear = hear
	cfg := v.tlsConfig()
	cfg.VerifyConnection = func(s utls.ConnectionState) error {
		g.judge(v, trust.CertHash != nil, s.PeerCertificates)
		return nil // it is reported
	}
	if g.tls, err = newTLS(hear, l, cfg, nil, nil); err != nil {
		_ = conn.Close()
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	_ = conn.SetDeadline(time.Now().Add(tlsTimeout))
	err = g.tls.Handshake()
	_ = conn.SetDeadline(time.Time{})
	if !stop() || err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("the cover's TLS handshake: %w", bare(err))
	}
	s := g.tls.ConnectionState()
	g.report.TLS13 = s.Version == utls.VersionTLS13
	g.report.ALPN = s.NegotiatedProtocol
	g.report.Retry = hear.watch.retried
	if g.report.TLS13 {
		g.report.Group = hear.watch.hello.group
	}
	g.visit = newVisit(g.tls, &l.HTTP, authority(cover.Name, cover.Address), s.NegotiatedProtocol, func(status int) {
		select {
		case g.status <- status:
		default:
		}
	})
	return g, nil
}

func (g *guest) judge(v verifier, pinned bool, certs []*x509.Certificate) {
	g.report.CertErr = v.Chain(certs)
	if len(certs) == 0 {
		return
	}
	leaf := certs[0]
	g.report.LeafHash = sha256.Sum256(leaf.Raw)
	g.report.NotAfter = leaf.NotAfter
	g.report.SelfSigned = leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) == nil
	if now := time.Now(); g.report.CertErr == nil && !pinned && (now.After(leaf.NotAfter) || now.Before(leaf.NotBefore)) {
		g.report.CertErr = errors.New("the cover's certificate is out of date")
	}
}

// ask sends the first request and begins to serve.
func (g *guest) ask() error {
	if err := g.visit.begin(); err != nil {
		return err
	}
	if err := g.visit.get(); err != nil {
		return err
	}
	g.serves = true
	go func() { // close waits for it
		defer close(g.ended)
		g.err = g.visit.serve()
	}()
	return nil
}

func (g *guest) answer(ctx context.Context) (int, error) {
	select {
	case s := <-g.status:
		return s, nil
	case <-g.ended:
		select {
		case s := <-g.status:
			return s, nil
		default:
			return 0, g.err
		}
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

func (g *guest) close() {
	_ = g.conn.Close()
	if g.serves {
		<-g.ended
	}
}
