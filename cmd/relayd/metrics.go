package main

import (
	"fmt"
	"runtime"
	runtimemetrics "runtime/metrics"

	"busel/internal/cli"
	m "busel/internal/metrics"
)

// metrics are the counts of the status for Prometheus. No address, name or invite is
// among them.
func (s *status) metrics() []m.Metric {
	gauge := func(name, help string, value int64) m.Metric {
		return m.One(m.Gauge, "busel_relay_"+name, help, float64(value))
	}
	total := func(name, help string, value int64) m.Metric {
		return m.One(m.Counter, "busel_relay_"+name+"_total", help, float64(value))
	}
	ways := func(name, help string, up, down int64) m.Metric {
		return m.Metric{Name: "busel_relay_" + name + "_total", Help: help, Kind: m.Counter, Samples: []m.Sample{
			{Label: "direction", Text: "up", Value: float64(up)}, {Label: "direction", Text: "down", Value: float64(down)},
		}}
	}
	var visits, candidates, in, out, failed, strange, replayed, silent uint64
	var conns, quicConns, open int64
	for _, l := range s.Listeners {
		visits, candidates, failed = visits+l.Strangers, candidates+l.Candidates, failed+l.CoverFailed
		in, out, conns = in+l.CovertIn, out+l.CovertOut, conns+l.Conns
		if l.Open {
			open++
		}
	}
	for _, l := range s.QUIC {
		strange, replayed, silent, quicConns = strange+l.Strange, replayed+l.Replayed, silent+l.NoHello, quicConns+l.Conns
	}
	r, e := &s.Relay, &s.Exit
	var elder elderStatus
	if s.Draining != nil {
		elder = *s.Draining
	}
	all := []m.Metric{
		{Name: "busel_relay_build_info", Help: "1, with the version.", Kind: m.Gauge, Samples: []m.Sample{{Label: "version", Text: cli.Version(), Value: 1}}},
		gauge("uptime_seconds", "Since the start of the process.", s.UptimeS),
		gauge("sessions", "Clients' sessions now.", int64(r.Sessions)),
		gauge("carriers", "Connections of clients now.", r.Carriers),
		gauge("streams", "TCP streams of clients now.", r.Streams),
		gauge("flows", "UDP flows of clients now.", r.Flows),
		gauge("elder_sessions", "Sessions in an older process that ends with them.", int64(elder.Sessions)),
		gauge("elder_streams", "Streams in an older process that ends with them.", elder.Streams),
		total("hellos", "Hellos of clients.", r.Hellos),
		total("hellos_refused", "Hellos that were refused.", r.Refused),
		total("carriers", "Connections of clients.", r.CarriersTotal),
		total("carriers_handed", "Connections of clients of an older process.", r.Handed),
		total("streams", "TCP streams.", r.StreamsTotal),
		total("streams_failed", "TCP streams whose destination was not reached.", r.StreamsFailed),
		total("flows", "UDP flows.", r.FlowsTotal),
		ways("stream_bytes", "Bytes in streams that ended.", r.BytesUp, r.BytesDown),
		total("stream_bytes_again", "Bytes of streams that travelled between client and relay another time.", r.BytesAgain),
		ways("datagrams", "UDP datagrams sent to and received from the internet.", e.DatagramsUp, e.DatagramsDown),
		total("datagrams_lost", "UDP datagrams that were not sent, or came from where nothing was sent to.", e.DatagramsLost),
		total("denied", "Streams and datagrams against the exit's rules.", e.Denied),
	}
	if len(s.Listeners) > 0 {
		all = append(all,
			gauge("mirror_ports_open", "TCP ports that are open; they are closed while the cover is down.", open),
			gauge("mirror_connections", "TCP connections now, strangers' included.", conns),
			total("mirror_visits", "Strangers' visits to the cover site.", int64(visits)),
			total("mirror_candidates", "Connections that knew the relay's key.", int64(candidates)),
			total("mirror_cover_failures", "Failed connections to the cover site.", int64(failed)),
			ways("mirror_bytes", "Bytes of clients' records, from and to them.", int64(in), int64(out)),
		)
	}
	if len(s.QUIC) > 0 {
		all = append(all,
			gauge("quic_connections", "QUIC connections now.", quicConns),
			total("quic_strange_datagrams", "Datagrams of strangers, which drew no answer.", int64(strange)),
			total("quic_replayed_datagrams", "Datagrams that came before, which drew no answer.", int64(replayed)),
			total("quic_silent", "QUIC connections without a hello.", int64(silent)),
		)
	}
	sample := []runtimemetrics.Sample{
		{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}, {Name: "/gc/cycles/total:gc-cycles"},
	}
	runtimemetrics.Read(sample)
	size := func(i int) int64 { return int64(sample[i].Value.Uint64()) }
	return append(all,
		gauge("memory_bytes", "Memory that the process has from the system.", size(0)-size(1)),
		gauge("memory_live_bytes", "What was in use of it after the last collection, and stacks.", size(2)+size(3)),
		total("memory_collections", "Collections of what is not in use any more.", size(4)),
		gauge("goroutines", "Goroutines.", int64(runtime.NumGoroutine())),
	)
}

// elderStatus asks an older process what is left in it; nil if there is none.
func (s *server) elderStatus() *elderStatus {
	if s.elder == nil {
		return nil
	}
	select {
	case <-s.elder.Gone():
		return nil
	default:
	}
	var st status
	if err := s.elder.Status(&st); err != nil {
		s.log.Debug("older process was not asked", "err", fmt.Errorf("status: %w", err))
		return nil
	}
	d := &elderStatus{PID: st.PID, Sessions: st.Relay.Sessions, Streams: st.Relay.Streams}
	if st.Draining != nil { // it has an elder itself
		d.Sessions, d.Streams = d.Sessions+st.Draining.Sessions, d.Streams+st.Draining.Streams
	}
	return d
}
