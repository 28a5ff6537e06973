// Package session moves streams and flows over carriers that may die.
package session

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"time"

	"busel/internal/flow"
	"busel/internal/wire"
	"busel/transport"
)

var errSoon = errors.New("session is being written")

type ClientConfig struct {
	Token    wire.Token
	Cipher   wire.Cipher
	Logger   *slog.Logger
	OnBundle func(bundle []byte)            // an invite update; must not block
	OnNotice func(code uint64, text string) // a notice for the user; must not block
}

type Client struct{}

func NewClient(cfg ClientConfig) *Client               { return &Client{} }
func (c *Client) Run(ctx context.Context) error        { return errSoon }
func (c *Client) Offer() *Offer                        { return &Offer{} }
func (c *Client) Wanted() bool                         { return false }
func (c *Client) Healthy() bool                        { return false }
func (c *Client) Changed() <-chan struct{}             { return nil }
func (c *Client) WaitNeeded(ctx context.Context) error { return errSoon }
func (c *Client) Set(n uint32, s wire.CarrierState)    {}
func (c *Client) Stats() Stats                         { return Stats{} }
func (c *Client) OpenStream(ctx context.Context, dst flow.Addr) (flow.Stream, error) {
	return nil, errSoon
}
func (c *Client) OpenPackets(ctx context.Context) (flow.Packets, error) { return nil, errSoon }

type Offer struct{}

func (o *Offer) Hello() *wire.Hello { return nil }
func (o *Offer) Attach(ctx context.Context, c transport.Carrier, a *wire.Accept) error {
	return errSoon
}
func (o *Offer) Withdraw() {}

type CarrierStats struct {
	N        uint32
	Kind     string
	State    string // active, spare, suspect
	RTT      time.Duration
	Up, Down uint64
	Age      time.Duration
}

type Stats struct {
	Streams, Flows int
	Up, Down       uint64
	Moves          int
	Carriers       []CarrierStats
}

type ServerConfig struct {
	OnStream    func(ctx context.Context, s *Stream, dst flow.Addr)
	OnPackets   func(ctx context.Context, p flow.Packets)
	Logger      *slog.Logger
	SessionLife time.Duration // without a carrier; 0 means 60 minutes
}

type Server struct{}

func NewServer(cfg ServerConfig) *Server        { return &Server{} }
func (s *Server) Run(ctx context.Context) error { return errSoon }
func (s *Server) Admit(h *wire.Hello, known bool) (*wire.Accept, *Admission) {
	return nil, nil
}
func (s *Server) End(reason flow.Detail, text string)   {}
func (s *Server) SendBundle(bundle []byte) error        { return errSoon }
func (s *Server) Notify(code uint64, text string) error { return errSoon }
func (s *Server) Stats() Stats                          { return Stats{} }

type Admission struct{}

func (a *Admission) Attach(ctx context.Context, c transport.Carrier) error { return errSoon }
func (a *Admission) Withdraw()                                             {}

type Stream struct{ net.Conn }

func (s *Stream) Reply(code flow.Code, detail flow.Detail) error { return errSoon }
func (s *Stream) CloseWrite() error                              { return errSoon }
func (s *Stream) Connected(ctx context.Context) error            { return errSoon }
func (s *Stream) ReadFrom(r io.Reader) (int64, error)            { return 0, errSoon }
func (s *Stream) WriteTo(w io.Writer) (int64, error)             { return 0, errSoon }
