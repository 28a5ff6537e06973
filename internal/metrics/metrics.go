// Package metrics shows counts to Prometheus: the text format that it scrapes
// (Prometheus, "Text-based exposition format", version 0.0.4), over HTTP. It holds
// no counts itself, they are collected when somebody asks.
package metrics

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Kind says what a metric does over time.
type Kind string

// Kinds.
const (
	Counter Kind = "counter" // never falls but with a restart; its name ends in _total
	Gauge   Kind = "gauge"
)

// Metric is one name with its values.
type Metric struct {
	Name, Help string
	Kind       Kind
	Samples    []Sample
}

// Sample is one value. Label and Text are empty if the metric has only one.
type Sample struct {
	Label, Text string
	Value       float64
}

// One is a metric of one value.
func One(kind Kind, name, help string, value float64) Metric {
	return Metric{name, help, kind, []Sample{{Value: value}}}
}

// Append appends metrics in the text format. Metrics without samples are left out.
func Append(b []byte, all []Metric) []byte {
	text := strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
	help := strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	for _, m := range all {
		if len(m.Samples) == 0 {
			continue
		}
		b = append(b, "# HELP "+m.Name+" "+help.Replace(m.Help)+"\n# TYPE "+m.Name+" "+string(m.Kind)+"\n"...)
		for _, s := range m.Samples {
			b = append(b, m.Name...)
			if s.Label != "" {
				b = append(b, "{"+s.Label+`="`+text.Replace(s.Text)+`"}`...)
			}
			b = append(b, ' ')
			b = strconv.AppendFloat(b, s.Value, 'f', -1, 64)
			b = append(b, '\n')
		}
	}
	return b
}

const (
	contentType = "text/plain; version=0.0.4; charset=utf-8"
	// scrapeTime bounds everything that a scraper does, and maxConns how many there
	// are at a time: who may connect is on this machine.
	scrapeTime = 10 * time.Second
	maxConns   = 16
)

// Serve answers GET /metrics on ln until ctx ends, and closes it.
func Serve(ctx context.Context, ln net.Listener, collect func() []Metric) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(Append(nil, collect())) // the scraper may have gone
	})
	s := &http.Server{
		Handler: mux, ReadTimeout: scrapeTime, WriteTimeout: scrapeTime, IdleTimeout: 5 * time.Minute, MaxHeaderBytes: 8 << 10,
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	err := s.Serve(&bounded{Listener: ln, slots: make(chan struct{}, maxConns), done: ctx.Done()})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// bounded accepts so many connections at a time.
type bounded struct {
	net.Listener
	slots chan struct{}
	done  <-chan struct{}
}

func (b *bounded) Accept() (net.Conn, error) {
	select {
	case b.slots <- struct{}{}:
	case <-b.done:
		return nil, net.ErrClosed
	}
	c, err := b.Listener.Accept()
	if err != nil {
		<-b.slots
		return nil, err
	}
	return &slotted{Conn: c, slots: b.slots}, nil
}

type slotted struct {
	net.Conn
	slots chan struct{}
	once  sync.Once
}

func (s *slotted) Close() error {
	s.once.Do(func() { <-s.slots })
	return s.Conn.Close()
}
