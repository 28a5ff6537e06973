package rules

import (
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"

	"busel/scripts/lab/censor/packet"
	"busel/scripts/lab/censor/rule"
)

// BenchmarkJudge judges the bulk data of an open TLS connection to a site, with
// all rule files loaded but those that would drop it: a packet that is dropped
// is cheap.
func BenchmarkJudge(b *testing.B) {
	names, err := fs.Glob(Files, "*.toml")
	if err != nil {
		b.Fatal(err)
	}
	var loaded []*rule.File
	start := func(files ...*rule.File) *conn {
		l := newLab(b)
		l.set = rule.NewSet(rand.New(rand.NewPCG(1, 2)), files...)
		c := l.to(site, 443)
		c.send(rule.Up, packet.SYN, nil)
		c.send(rule.Down, packet.SYN|packet.ACK, nil)
		c.up(hello(b, unlisted))
		return c
	}
	for _, name := range names {
		f := parse(b, name)
		c := start(f)
		lost := 0
		for range 50 {
			if c.down(make([]byte, 1400)).Drop {
				lost++
			}
		}
		if lost == 0 && !strings.HasPrefix(name, "mitm") { // it would write into the packets
			loaded = append(loaded, f)
		}
	}
	c := start(loaded...)
	c.down([]byte("\x16\x03\x03 server's flight"))
	c.up([]byte("\x14\x03\x03\x00\x01\x01 and Finished"))
	data, ack := c.segment(rule.Down, packet.ACK, make([]byte, 1400)), c.segment(rule.Up, packet.ACK, nil)
	b.ReportAllocs()
	b.ReportMetric(float64(len(loaded)), "files")
	for i := 0; b.Loop(); i++ {
		if i%3 == 0 {
			c.set.Judge(c.now, rule.Up, ack)
		} else {
			c.set.Judge(c.now, rule.Down, data)
		}
	}
}
