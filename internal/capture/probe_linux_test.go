package capture

import (
	"io"
	"net"
	"testing"
	"time"
)

// TestProbeIn: when the next probe is due is told also of a socket whose last bytes are not
// acknowledged yet, and not of one that sends none.
func TestProbeIn(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, tt := range []struct {
		every       time.Duration // negative: never
		least, most float64
	}{{45 * time.Second, 30, 45}, {-1, 0, 0}} {
		d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: tt.every > 0, Idle: tt.every, Interval: tt.every}, KeepAlive: tt.every}
		c, err := d.Dial("tcp4", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		say := func(from, to net.Conn) {
			t.Helper()
			if _, err := from.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(to, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		// In a dialogue the system lets an acknowledgement wait for the answer.
		for range 8 {
			say(c, s)
			say(s, c)
			say(c, s)
			if in := probeIn(c.LocalAddr()); in < tt.least || in > tt.most {
				t.Fatalf("a probe each %v: the next is due in %.2f s", tt.every, in)
			}
		}
	}
}

func TestTimerOf(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:01BB 00000000:0000 0A 00000000:00000000 02:00000001 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:01BB 0100007F:9C40 01 0000B957:00000000 01:00000013 00000000     0        0 2 1 0 20 4 30 10 -1
   2: 0200007F:01BB 0100007F:9C40 01 00000000:00000000 02:00001183 00000000     0        0 3 1 0 20 4 30 10 -1
   3: 0300007F:01BB 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4 1 0 20 4 30 10 -1
`
	for _, tt := range []struct {
		host  string
		timer string
		in    float64
	}{{"127.0.0.1", resendTimer, 0.19}, {"127.0.0.2", probeTimer, 44.83}, {"127.0.0.3", "00", 0}, {"127.0.0.4", "", 0}} {
		if timer, in := timerOf(table, &net.TCPAddr{IP: net.ParseIP(tt.host), Port: 443}); timer != tt.timer || in != tt.in {
			t.Errorf("%s: timer %q in %.2f s, want %q in %.2f s", tt.host, timer, in, tt.timer, tt.in)
		}
	}
}
