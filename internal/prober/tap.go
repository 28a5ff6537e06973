//go:build linux

package prober

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// Tap is a forwarder in the path between clients and a server that records what
// passes, and can flip a bit on the way.
type Tap struct {
	Address string // where it listens, on loopback
	to      string
	port    net.Listener

	mu    sync.Mutex
	conns []*Recording
	spoil *Spoiled
}

// NewTap listens on loopback for clients of the server at address to.
func NewTap(to string) (*Tap, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &Tap{Address: l.Addr().String(), to: to, port: l}, nil
}

// Run forwards until ctx ends, and then closes what is open.
func (p *Tap) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer context.AfterFunc(ctx, func() { _ = p.port.Close() })()
	for {
		client, err := p.port.Accept()
		if err != nil {
			return
		}
		wg.Go(func() { p.forward(ctx, client.(*net.TCPConn)) })
	}
}

// Recordings are of the connections so far, the first one first.
func (p *Tap) Recordings() (all []Recording) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.conns {
		all = append(all, r.clone())
	}
	return all
}

// Spoiled is a record with a flipped bit, and how it was answered.
type Spoiled struct {
	up      bool
	done    bool // the bit is flipped
	start   time.Time
	data    []byte        // of the other direction since then
	answer  Answer        // valid when ended is closed
	ended   chan struct{} // closed at the end of the other direction
	decided bool          // ended is closed
}

// Answer is what followed a spoiled record from the end that received it.
type Answer struct {
	Records string        // as of [Records]
	End     string        // "EOF" for a FIN, or why not
	After   time.Duration // from the flipped bit to the end
}

// Spoil flips a bit in the next record in one direction: in the last byte of
// its body. What answers it is held back until the end.
func (p *Tap) Spoil(up bool) *Spoiled {
	s := &Spoiled{up: up, ended: make(chan struct{})}
	p.mu.Lock()
	p.spoil = s
	p.mu.Unlock()
	return s
}

// Wait returns the answer when the connection has ended, or an error when ctx
// ends first.
func (s *Spoiled) Wait(ctx context.Context) (Answer, error) {
	select {
	case <-s.ended:
		return s.answer, nil
	case <-ctx.Done():
		return Answer{}, errors.New("a spoiled record did not end the connection")
	}
}

func (p *Tap) forward(ctx context.Context, client *net.TCPConn) {
	defer client.Close()
	server, err := net.Dial("tcp4", p.to)
	if err != nil {
		return
	}
	defer server.Close()
	defer context.AfterFunc(ctx, func() { _ = client.Close(); _ = server.Close() })()
	r, start := new(Recording), time.Now()
	p.mu.Lock()
	p.conns = append(p.conns, r)
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.copy(server.(*net.TCPConn), client, r, start, true) })
	both.Go(func() { p.copy(client, server.(*net.TCPConn), r, start, false) })
	both.Wait()
}

// copy forwards whole records, so that a record can be spoiled in place.
func (p *Tap) copy(to, from *net.TCPConn, r *Recording, start time.Time, up bool) {
	for {
		record, err := readRecord(from)
		p.mu.Lock()
		r.Pass(up, record, time.Since(start))
		if err != nil {
			r.end(up, err, time.Since(start))
		}
		record, hold := p.spoil.pass(record, up, err)
		p.mu.Unlock()
		if hold {
			continue
		}
		_, werr := to.Write(record)
		if err != nil || werr != nil {
			if errors.Is(err, syscall.ECONNRESET) {
				_ = to.SetLinger(0)
				_ = to.Close()
			}
			_ = to.CloseWrite()
			return
		}
	}
}

// readRecord reads one record, or what comes of it before the end.
func readRecord(from io.Reader) ([]byte, error) {
	record := make([]byte, 5)
	n, err := io.ReadFull(from, record)
	if err == nil {
		record = append(record, make([]byte, int(record[3])<<8|int(record[4]))...)
		var m int
		m, err = io.ReadFull(from, record[5:])
		n += m
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return record[:n], err
}

func (r *Recording) end(up bool, err error, at time.Duration) {
	end := ""
	switch {
	case errors.Is(err, io.EOF):
		end = "FIN"
	case errors.Is(err, syscall.ECONNRESET):
		end = "RST"
	}
	if up {
		r.ClientEnd, r.ClientEndAt = end, at
	} else {
		r.ServerEnd, r.ServerEndAt = end, at
	}
}

// pass takes what is about to be forwarded and returns what shall be, or hold.
// The receiver may be nil.
func (s *Spoiled) pass(record []byte, up bool, err error) (_ []byte, hold bool) {
	switch {
	case s == nil:
	case s.up == up && !s.done && len(record) > 5:
		s.done = true
		s.start = time.Now()
		record[len(record)-1] ^= 1
	case s.up != up && s.done && !s.decided:
		// Nothing is passed on before the end: whoever hears the alert says
		// something himself (Go's visitor a close_notify), and a RST that this
		// draws from an end that has closed hides the FIN before it.
		s.data = append(s.data, record...)
		if err == nil {
			return nil, true
		}
		s.answer = Answer{Records(s.data), errno(err), time.Since(s.start)}
		s.decided = true
		close(s.ended)
		return s.data, false
	}
	return record, false
}
