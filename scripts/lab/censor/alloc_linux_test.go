package censor

import (
	"testing"

	"busel/scripts/lab/censor/rule"
)

// A packet costs no memory once there are buffers, whether it waits or not.
func TestAllocations(t *testing.T) {
	for _, link := range []Link{{}, {Delay: 1}} { // 1 ns: through the queue
		c, err := New(Config{Client: still(nil), World: still(nil), Up: link, Judge: judgeFunc(busy)})
		if err != nil {
			t.Fatal(err)
		}
		l := c.lanes[rule.Up]
		if l.alarm, err = newAlarm(); err != nil {
			t.Fatal(err)
		}
		batch := make([]*packet, 0, batchSize)
		got := testing.AllocsPerRun(1000, func() {
			p := l.buffer()
			p.size = 100
			c.judgePacket(l, p)
			c.schedule(l, p)
			batch, _ = l.take(batch, c.now())
			for _, p := range batch {
				c.deliver(l, p)
			}
		})
		l.alarm.close()
		up, _ := c.Counters()
		if got != 0 || up.Delivered < 1000 {
			t.Errorf("%+v: %g allocations per packet, %+v", link, got, up)
		}
	}
}
