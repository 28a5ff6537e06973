package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"reflect"
	"regexp"
	"strings"
	"syscall"

	"busel/config"
	"busel/internal/control"
	"busel/internal/exit"
	"busel/internal/relay"
	"busel/internal/systemd"
)

// reloads reads settings and invites again at each SIGHUP.
func (s *server) reloads(ctx context.Context, reload func()) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-hangup:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		told := s.notify.Reloading()
		reload()
		if err := errors.Join(told, s.notify.Notify(systemd.Ready)); err != nil {
			s.log.Warn("the service manager was not told", "err", err)
		}
	}
}

// reload takes what can change while the relay runs: invites, the exit's rules, the
// level of the log. Sessions are not touched. A fault leaves settings or invites as
// they were, but not the others: an invite that was revoked is void whatever is the
// matter with the settings, which an older relay may not even understand.
func (s *server) reload(g *gate, serve *relay.Relay, out *exit.Exit) {
	invites := s.reloadInvites(g, serve)
	if invites != nil {
		s.log.Error("invites stay as they were", "err", invites)
	}
	set, err := settings(s.dir)
	if err == nil {
		out.SetPolicy(exit.Config{Allow: set.Exit.Allow, Deny: set.Exit.Deny, Web: set.Exit.Web, Names: set.Exit.Names})
		s.level.Set(set.LogLevel)
	} else {
		s.log.Error("settings stay as they were", "err", err)
	}
	if err != nil {
		return
	}
	if waiting := waits(&s.set, &set); len(waiting) > 0 {
		s.log.Warn("some changed settings wait for `relayd upgrade`", "keys", strings.Join(waiting, " "))
	}
	if invites == nil {
		s.log.Info("settings and invites were read again")
	}
}

// reloadInvites reads the invites again, here and in an older relay that drains, and
// ends the sessions of those that are void.
func (s *server) reloadInvites(g *gate, serve *relay.Relay) error {
	err := g.reload(s.dir)
	serve.Review()
	if s.elder != nil {
		_ = s.elder.Reload() // it may have gone
	}
	return err
}

var words = regexp.MustCompile(`([a-z])([A-Z])`)

// live are the fields of the settings that a reload changes.
func live(field string) bool { return field == "Exit" || field == "LogLevel" }

// rest is what of the exit's settings a reload does not change.
func rest(e config.Exit) config.Exit { return config.Exit{Source: e.Source, Relay: e.Relay} }

// waits names the fields that differ and that only a new process takes, as they are
// written in relayd.toml.
func waits(was, is *config.Relay) (keys []string) {
	a, b := reflect.ValueOf(was).Elem(), reflect.ValueOf(is).Elem()
	for i := range a.NumField() {
		name := a.Type().Field(i).Name
		if !live(name) && !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			keys = append(keys, strings.ToLower(words.ReplaceAllString(name, "$1-$2")))
		}
	}
	if !reflect.DeepEqual(rest(was.Exit), rest(is.Exit)) {
		keys = append(keys, "exit")
	}
	return keys
}

// watch tells the service manager that the relay serves once answering is closed,
// and that it lives as long as it answers its own commands: those ask for the same
// locks as clients do, and need a descriptor and a turn of the processor.
func (s *server) watch(ctx context.Context, answering <-chan struct{}) error {
	select {
	case <-answering:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := s.notify.Notify(systemd.Ready, systemd.Status("serves")); err != nil {
		s.log.Warn("the service manager was not told", "err", err)
	}
	return s.notify.Watch(ctx, func(ctx context.Context) error {
		return control.Call(ctx, s.dir.Socket(), "status", nil, nil)
	}, s.log)
}
