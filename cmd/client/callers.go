package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"busel/config"
	"busel/internal/cli"
	"busel/internal/looks"
	"busel/internal/peer"
)

// callers are the programs that connect to the proxy: which of them may, and which are
// browsers that looks are learned from.
type callers struct {
	peers    *peer.Peers // nil: the system does not tell, and all may
	programs []string    // none: all of this user's
	all      bool        // those of other users, too
	log      *slog.Logger

	turnedAway atomic.Bool

	mu   sync.Mutex
	next time.Time // no program is looked for before, for learning only
}

// newCallers finds out what the system tells. It fails if that is not enough for the
// settings.
func newCallers(set config.Client, log *slog.Logger) (*callers, error) {
	c := &callers{programs: set.Programs, all: set.Allow == config.AllowAnyone, log: log}
	var err error
	if c.peers, err = peer.Open(); err == nil {
		return c, nil
	}
	c.peers = nil
	if set.Allow == config.AllowUser || len(set.Programs) > 0 {
		return nil, cli.Hint(errors.Join(errors.New("client.toml says who may use the proxy"), err),
			"set a user and password in client.toml instead, and remove allow and programs")
	}
	if !c.all {
		log.Info("this system does not tell which program connects, so all programs on this computer may use the proxy; a password in client.toml keeps others out")
	}
	return c, nil
}

// admit is for [front.Config]; nil lets everybody in.
func (c *callers) admit() func(*net.TCPConn) bool {
	if c.peers == nil || c.all {
		return nil
	}
	if len(c.programs) == 0 {
		return func(conn *net.TCPConn) bool { return c.noted(c.peers.Mine(conn)) }
	}
	return func(conn *net.TCPConn) bool {
		path, err := c.peers.Program(conn)
		if err == nil && !peer.Named(path, c.programs) {
			err = errNotNamed
		}
		return c.noted(err)
	}
}

// admitUDP is for [front.Config]. A program that may not use the proxy has no
// association; here only other users are kept from taking one over.
func (c *callers) admitUDP() func(here, from netip.AddrPort) bool {
	if c.peers == nil || c.all {
		return nil
	}
	return c.peers.MineUDP
}

// gone is for [front.Config].
func (c *callers) gone() func(*net.TCPConn) bool {
	if c.peers == nil {
		return nil
	}
	return c.peers.Gone
}

var errNotNamed = errors.New("the program is not in the list")

// noted reports whether a program may, and says once in a run that there is one that may
// not. One that was gone before it was asked for is not worth a word.
func (c *callers) noted(err error) bool {
	if err != nil {
		level := slog.LevelDebug
		if (errors.Is(err, peer.ErrOther) || errors.Is(err, errNotNamed)) && c.turnedAway.CompareAndSwap(false, true) {
			level = slog.LevelInfo
		}
		c.log.Log(context.Background(), level, "a program was turned away that may not use the proxy; allow and programs in client.toml say which may", "cause", err)
	}
	return err == nil
}

// effort bounds what looking for the program behind a connection costs when only the look
// is learned from it: a twentieth of one processor.
const effort = 20

// browser reports whether a connection is a browser's that looks are learned from. Where
// the system does not tell, every program is taken for one.
func (c *callers) browser(conn *net.TCPConn) bool {
	if c.peers == nil {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	begin := time.Now()
	if begin.Before(c.next) {
		return false // another connection will come
	}
	path, err := c.peers.Program(conn)
	end := time.Now()
	c.next = end.Add(effort * end.Sub(begin))
	return err == nil && peer.Named(path, looks.Browsers())
}

// ear lets looks hear browsers only: another program could have the client wear what it
// likes. nil is nobody.
func (c *callers) ear(conn *net.TCPConn, worn *looks.Looks) io.WriteCloser {
	ear := worn.Ear()
	if ear != nil && !c.browser(conn) {
		ear.Close()
		return nil
	}
	return ear
}

// close ends all questions.
func (c *callers) close() {
	if c.peers != nil {
		c.peers.Close()
	}
}
