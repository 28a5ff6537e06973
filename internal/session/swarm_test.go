package session_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	mrand "math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/flow"
	"busel/internal/session"
	"busel/internal/wire"
	tt "busel/transport/transporttest"
)

// conductor plays rotation at random: it keeps up to a few carriers of every kind,
// promotes, drops and doubts them, while the links die, freeze and thaw.
type conductor struct {
	w     *world
	rng   *mrand.Rand
	bond  int // how many active carriers at the most
	curt  bool
	until time.Time // then it is kind, so that everything ends

	mu    sync.Mutex
	links map[*tt.Link]bool
	under int
}

func (k *conductor) pick() *tt.Link {
	for l := range k.links {
		return l
	}
	return nil
}

// link is a random path.
func (k *conductor) link() (cfg tt.LinkConfig, opt session.CarrierOptions) {
	r := k.rng
	cfg.Capacity = 4<<10 + r.IntN(256<<10)
	if r.IntN(3) == 0 {
		cfg.Rate = 5e3 * float64(1+r.IntN(200))
	}
	if r.IntN(5) == 0 {
		p := mrand.New(mrand.NewPCG(r.Uint64(), 1))
		cfg.Stall = func() time.Duration {
			if p.IntN(20) > 0 {
				return 0
			}
			return time.Duration(p.IntN(600)) * time.Millisecond
		}
	}
	kind := time.Now().After(k.until)
	if r.IntN(4) == 0 && !kind {
		cfg.CutAfter[r.IntN(2)] = 1 + r.Int64N(200<<10)
		cfg.CutNotice = [][]tt.Side{nil, {tt.Client}, {tt.Relay}}[r.IntN(3)]
	}
	if k.curt && r.IntN(2) == 0 {
		passes := 3000 + r.Int64N(12000)
		if !kind {
			cfg.FreezeAfter = passes
		}
		opt.Budget = uint64(passes)
		if r.IntN(3) == 0 {
			opt.Budget += opt.Budget / 2
		}
	}
	if r.IntN(3) == 0 {
		opt.State = wire.CarrierSpare
	}
	return cfg, opt
}

func (k *conductor) dial(dials *sync.WaitGroup) {
	cfg, opt := k.link()
	k.under++
	dials.Go(func() {
		l, wait, err := k.w.dialFor(opt, cfg)
		k.mu.Lock()
		k.under--
		if err != nil {
			k.mu.Unlock()
			return
		}
		k.links[l] = true
		k.mu.Unlock()
		err = wait()
		if !errors.Is(err, session.ErrSpent) && !errors.Is(err, session.ErrEnded) {
			wantEnd(k.w.t, err)
		}
		k.mu.Lock()
		delete(k.links, l)
		k.mu.Unlock()
	})
}

func (k *conductor) run() {
	var dials sync.WaitGroup
	defer dials.Wait()
	for k.w.ctx.Err() == nil {
		v, changed := k.w.client.View()
		k.mu.Lock()
		healthy, spares := 0, 0
		for _, a := range v.Carriers {
			switch {
			case a.Suspect || a.Spent:
			case a.State == wire.CarrierSpare:
				spares++
			default:
				healthy++
			}
		}
		if v.Wanted && healthy < k.bond && len(v.Carriers)+k.under < k.bond+4 {
			promoted := false
			for _, a := range v.Carriers {
				if a.State == wire.CarrierSpare && !a.Suspect && !promoted {
					k.w.client.Set(a.N, wire.CarrierActive)
					promoted = true
				}
			}
			if !promoted && k.under < 2 {
				k.dial(&dials)
			}
		} else if v.Wanted && spares == 0 && k.under == 0 && k.rng.IntN(2) == 0 {
			k.dial(&dials)
		}
		if time.Now().Before(k.until) {
			l := k.pick()
			side := tt.Side(k.rng.IntN(2))
			switch n := k.rng.IntN(12); {
			case len(v.Carriers) == 0:
			case n == 0:
				k.w.client.Doubt()
			case n == 1:
				k.w.client.Drop(v.Carriers[k.rng.IntN(len(v.Carriers))].N, nil)
			case n == 2:
				k.w.client.Set(v.Carriers[k.rng.IntN(len(v.Carriers))].N, wire.CarrierState(k.rng.IntN(2)))
			case l == nil:
			case n == 3:
				l.Kill()
			case n == 4:
				l.KillNoticed(side)
			case n == 5:
				l.Zombie(side)
			case n < 8:
				l.Freeze(side)
				if k.rng.IntN(2) == 0 {
					time.AfterFunc(time.Duration(k.rng.IntN(3000))*time.Millisecond, func() { l.Thaw(side) })
				}
			}
		}
		wait := time.Duration(50+k.rng.IntN(400)) * time.Millisecond
		k.mu.Unlock()
		select {
		case <-k.w.ctx.Done():
		case <-changed:
			pass(k.w.ctx, time.Millisecond)
		case <-time.After(wait):
		}
	}
}

// mirrored sends back a stream's bytes, or the hash of what came, or so many bytes
// of a stream of random ones and then their hash.
func mirrored(ctx context.Context, s *session.Stream, dst flow.Addr) {
	defer s.Close()
	switch dst.Name {
	case "up":
		h := sha256.New()
		if _, err := io.Copy(h, s); err != nil {
			return
		}
		s.Write(h.Sum(nil))
	case "down":
		b := make([]byte, int(dst.Port)*16)
		mrand.NewChaCha8([32]byte{byte(dst.Port)}).Read(b)
		s.Write(b)
	default:
		if _, err := io.Copy(s, struct{ io.Reader }{s}); err != nil {
			return
		}
	}
	s.CloseWrite()
	io.Copy(io.Discard, s)
}

// Whatever happens to carriers of whatever kind, however many there are: no byte is
// lost or comes twice, and everything ends. BUSEL_SWARM is how many schedules are
// played.
func TestSwarm(t *testing.T) {
	count := 300
	if testing.Short() {
		count = 50
	}
	if n, err := strconv.Atoi(os.Getenv("BUSEL_SWARM")); err == nil {
		count = n
	}
	for seed := range count {
		synctest.Test(t, func(t *testing.T) { swarm(t, uint64(seed)) })
		if t.Failed() {
			t.Fatalf("schedule %d", seed)
		}
	}
}

func swarm(t *testing.T, seed uint64) {
	rng := mrand.New(mrand.NewPCG(seed, 11))
	w := newWorld(t, mirrored)
	defer w.stop()
	w.delay = time.Duration(1+rng.IntN(100)) * time.Millisecond
	k := &conductor{w: w, rng: mrand.New(mrand.NewPCG(seed, 12)), bond: 1 + rng.IntN(4), curt: rng.IntN(3) == 0, links: make(map[*tt.Link]bool)}
	k.until = time.Now().Add(time.Duration(5+rng.IntN(25)) * time.Second)
	w.wg.Go(k.run)
	over := make(chan struct{})
	var streams sync.WaitGroup
	for i := range 2 + rng.IntN(4) {
		name := []string{"up", "down", "echo"}[rng.IntN(3)]
		size := uint16(1 + rng.IntN(1<<uint(4+rng.IntN(12))))
		late := time.Duration(rng.IntN(4000)) * time.Millisecond
		streams.Go(func() {
			time.Sleep(late)
			s := w.open(flow.Addr{Name: name, Port: size})
			defer s.Close()
			data := make([]byte, int(size)*16)
			mrand.NewChaCha8([32]byte{byte(size)}).Read(data)
			want := sha256.Sum256(data)
			if name != "down" {
				w.wg.Go(func() {
					if _, err := s.Write(data); err != nil {
						t.Errorf("stream %d: %v", i, err)
					}
					s.CloseWrite()
				})
			} else {
				s.CloseWrite()
			}
			got, err := io.ReadAll(s)
			if name != "up" {
				h := sha256.Sum256(got)
				got = h[:]
			}
			if err != nil || [32]byte(append(got, make([]byte, 32)...)) != want {
				t.Errorf("stream %d, %s of %d bytes: hash %x, want %x: %v", i, name, len(data), got, want, err)
			}
		})
	}
	go func() { streams.Wait(); close(over) }()
	select {
	case <-over:
	case <-time.After(20 * time.Minute):
		t.Errorf("schedule %d does not end\nclient\n%s\nrelay\n%s", seed, w.client.Dump(), w.server().Dump())
		w.cancel()
		<-over
		return
	}
	k.mu.Lock()
	k.until = time.Now()
	k.mu.Unlock()
	// The last ACKs may have died with a carrier that nobody missed.
	if _, _, err := w.dial(plain()); err != nil {
		t.Error(err)
	}
	time.Sleep(2 * time.Minute)
	synctest.Wait()
	if here, there := w.client.Stats(), w.server().Stats(); here.Streams+there.Streams != 0 {
		t.Errorf("schedule %d: streams are left\nclient\n%s\nrelay\n%s", seed, w.client.Dump(), w.server().Dump())
	}
}
