package relay

import (
	"context"
	"errors"
	"time"

	"busel/internal/flow"
	"busel/internal/quota"
	"busel/internal/session"
	"busel/internal/wire"
)

// reviewEvery is how often sessions are judged anew, so that one whose invite has
// expired ends soon.
const reviewEvery = 10 * time.Second

// Review judges the invites of all sessions anew and ends those of invites that may
// not be used any more: their streams are reset and their carriers say why. It is to
// be called when what the gate knows has changed; Run does so from time to time.
func (r *Relay) Review() {
	r.mu.Lock()
	all := make([]*entry, 0, len(r.sessions))
	for _, e := range r.sessions {
		all = append(all, e)
	}
	r.mu.Unlock()
	for _, e := range all {
		genuine, status := r.cfg.Gate.Judge(e.token)
		if !genuine { // issued under a key that the relay does not have any more
			status = wire.StatusRevoked
		}
		if status.Refused() {
			e.End(status.Detail(), farewell(status))
		}
	}
}

func (r *Relay) reviews(ctx context.Context) {
	tick := time.NewTicker(reviewEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.Review()
		case <-ctx.Done():
			return
		}
	}
}

// Devices are how many sessions with a carrier each invite has that has any.
func (r *Relay) Devices() map[[8]byte]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := make(map[[8]byte]int)
	for k, e := range r.sessions {
		if e.attached > 0 {
			n[k.invite]++
		}
	}
	return n
}

// farewell is what a carrier says when its session ends for the status.
func farewell(s wire.Status) string {
	if s == wire.StatusQuota {
		return "This month's quota of the invite, or of the relay, is used up."
	}
	return "The invite is no longer valid."
}

// take counts n bytes of an invite and waits until they may move. When nothing more
// may, it ends the sessions that this concerns.
func (r *Relay) take(ctx context.Context, a *quota.Account, d quota.Direction, n int) error {
	err := a.Take(ctx, d, n)
	if errors.Is(err, quota.ErrUsedUp) {
		r.Review()
	}
	return err
}

// again counts n bytes of an invite's streams that travel another time, and returns
// for how long no more of them should. It does not wait.
func (r *Relay) again(a *quota.Account, received bool, n int) time.Duration {
	r.twice.Add(int64(n))
	if a == nil {
		return 0
	}
	d := quota.Down
	if received {
		d = quota.Up
	}
	wait, err := a.Again(d, n)
	if errors.Is(err, quota.ErrUsedUp) {
		r.Review()
	}
	return wait
}

// account is an invite's, or nil if nothing is counted.
func (r *Relay) account(invite [8]byte) *quota.Account {
	if r.cfg.Book == nil {
		return nil
	}
	return r.cfg.Book.Account(invite)
}

// metered is a session's stream whose bytes are counted before they move.
type metered struct {
	*session.Stream // whose ReadFrom and WriteTo do the work
	stop            context.CancelFunc
}

// meter returns s with its bytes counted, if anything is. ctx ends what waits.
func (r *Relay) meter(ctx context.Context, a *quota.Account, s *session.Stream) flow.Half {
	if a == nil {
		return s
	}
	ctx, stop := context.WithCancel(ctx)
	s.SetMeter(func(received bool, n int) error {
		if received {
			return r.take(ctx, a, quota.Up, n)
		}
		return r.take(ctx, a, quota.Down, n)
	})
	return metered{s, stop}
}

// Close also ends a call that waits.
func (m metered) Close() error {
	m.stop()
	return m.Stream.Close()
}
