package tunnel

import (
	"context"
	"errors"

	"busel/config"
	"busel/internal/detour"
	"busel/internal/flow"
	"busel/internal/rotate"
	"busel/transport"
	"busel/transport/mirror"
	"busel/transport/quic"
)

// kinds are the transports as rotation and the user know them.
var kinds = map[string]rotate.Kind{
	mirror.Kind: {Name: "TLS", Counted: true},
	quic.Kind:   {Name: "QUIC"},
}

// cuts are the options with which TLS is tried again when its hello was reset or
// lost: the ones that a network lets through are remembered.
var cuts = []string{"fragment=records", "fragment=both"}

// ways are the routes to one relay, and who dials them.
type ways struct {
	routes, fallbacks []transport.Route
	dialers           map[string]dialer // by transport
	detour            dialer
	forget            func() // what would be known again on another network
}

func (w *ways) dialer(r transport.Route) transport.Dialer {
	if r.Detour {
		return w.detour
	}
	return w.dialers[r.Transport]
}

// close ends all carriers.
func (w *ways) close() error {
	err := w.detour.Close()
	for _, d := range w.dialers {
		err = errors.Join(err, d.Close())
	}
	return err
}

// dialer makes carriers until it is closed.
type dialer interface {
	transport.Dialer
	Close() error
}

// waysTo are the ways to a relay: those of its invite that this version has, and
// TLS through another relay.
func (r *Relays) waysTo(label string, e *config.RelayEntry) (*ways, error) {
	w := &ways{routes: routesTo(label, e)}
	if len(w.routes) == 0 {
		return nil, errors.New("its invite names only ways to travel that this version lacks; get a newer Busel")
	}
	cfg := mirror.DialerConfig{PublicKey: e.Key, CoverName: e.CoverName, Proof: e.Proof, Look: r.cfg.Look, Refused: r.cfg.Refused, Place: r.cfg.Place, Logger: r.log}
	if e.CertHash != [32]byte{} {
		cfg.CertHash = &e.CertHash
	}
	covered, err := mirror.NewDialer(cfg)
	if err != nil {
		return nil, err
	}
	udp, err := quic.NewDialer(quic.DialerConfig{PublicKey: e.Key, CoverName: e.CoverName, CertHash: cfg.CertHash, Logger: r.log})
	if err != nil {
		return nil, err
	}
	w.forget = covered.Forget
	w.dialers = map[string]dialer{mirror.Kind: covered, quic.Kind: udp}
	cfg.Network = detour.Network{Opener: around{r, label}}
	if w.detour, err = mirror.NewDialer(cfg); err != nil {
		return nil, err
	}
	for _, route := range w.routes {
		if route.Transport != mirror.Kind {
			continue
		}
		if route.Options == "" {
			for _, cut := range cuts {
				route.Options = cut
				w.fallbacks = append(w.fallbacks, route)
			}
			route.Options = ""
		}
		route.Detour = true
		w.routes = append(w.routes, route)
	}
	return w, nil
}

// around opens streams at another relay than that of the label.
type around struct {
	*Relays
	label string
}

var errNoOther = errors.New("no other relay can be gone through")

func (a around) OpenStream(ctx context.Context, dst flow.Addr) (flow.Stream, error) {
	other := a.Relays.around(a.label)
	if other == nil {
		return nil, errNoOther
	}
	return other.session.OpenStream(ctx, dst)
}
