package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"busel/config"
	"busel/internal/nearby"
	"busel/internal/page"
	"busel/internal/words"
)

// shareDir is the folder whose files are handed out with the program: beside it, or in the
// client's directory.
const shareDir = "share"

// sharing hands out the program and an invite on the local network, at most once at a
// time.
type sharing struct {
	ctx context.Context // ends it
	dir string          // the client's directory
	log *slog.Logger
	wg  sync.WaitGroup

	mu   sync.Mutex
	now  *nearby.Share // nil: not going on
	urls []string
	stop context.CancelFunc
}

// begin begins, unless it is going on.
func (s *sharing) begin(b *config.Bundle, language string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now != nil || s.ctx.Err() != nil {
		return s.ctx.Err()
	}
	addresses, err := nearby.Addresses()
	if err != nil {
		return err
	}
	if len(addresses) == 0 {
		return page.ErrNoNetwork
	}
	languages, err := words.All()
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	share, err := nearby.New(nearby.Config{
		Files:  nearby.Files(program, filepath.Join(filepath.Dir(program), shareDir), filepath.Join(s.dir, shareDir)),
		Invite: b, Languages: languages, Language: language, Logger: s.log,
	})
	if err != nil {
		return err
	}
	var listeners []net.Listener
	var lc net.ListenConfig
	s.urls = nil
	for _, a := range addresses {
		ln, err := lc.Listen(s.ctx, "tcp4", netip.AddrPortFrom(a, 0).String())
		if err != nil {
			for _, ln := range listeners {
				ln.Close()
			}
			return errors.Join(page.ErrNoNetwork, err)
		}
		listeners = append(listeners, ln)
		s.urls = append(s.urls, "http://"+ln.Addr().String()+"/")
	}
	ctx, stop := context.WithCancel(s.ctx)
	s.now, s.stop = share, stop
	s.wg.Go(func() {
		defer stop()
		if err := share.Run(ctx, listeners...); err != nil {
			s.log.Warn("sharing over Wi-Fi ended early", "err", errors.Unwrap(err))
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.now = nil
	})
	return nil
}

// end ends it, if it is going on.
func (s *sharing) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now != nil {
		s.stop()
	}
}

// shown is how it goes; nil: it does not.
func (s *sharing) shown() *page.Nearby {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == nil {
		return nil
	}
	return &page.Nearby{URLs: s.urls, PIN: s.now.PIN(), Until: s.now.Until(), Taken: s.now.Taken()}
}
