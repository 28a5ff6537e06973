package censor

import (
	"sync/atomic"
	"time"
)

// Counters are what one direction did. Every packet that came is delivered,
// dropped in one of the ways, failed, or still under way.
type Counters struct {
	Packets        uint64 `json:"packets"` // that came
	Bytes          uint64 `json:"bytes"`
	Delivered      uint64 `json:"delivered"` // injected ones included
	DeliveredBytes uint64 `json:"delivered_bytes"`
	Judged         uint64 `json:"judged"`     // dropped by the judge
	Lost           uint64 `json:"lost"`       // dropped by the link's loss
	Overflowed     uint64 `json:"overflowed"` // dropped by the link's full queue
	Injected       uint64 `json:"injected"`
	Failed         uint64 `json:"failed"` // refused by the port: no IP packet, or too long
	// How long after they were due packets that had to wait were delivered.
	LateMean time.Duration `json:"late_mean_ns"`
	LateMax  time.Duration `json:"late_max_ns"`
}

// meter is Counters at work.
type meter struct {
	packets, bytes, delivered, deliveredBytes  atomic.Uint64
	judged, lost, overflowed, injected, failed atomic.Uint64
	scheduled, late, lateMax                   atomic.Int64
}

// lateness notes one delivery. Only the sender calls it.
func (m *meter) lateness(late time.Duration) {
	m.scheduled.Add(1)
	m.late.Add(int64(late))
	if int64(late) > m.lateMax.Load() {
		m.lateMax.Store(int64(late))
	}
}

func (m *meter) read() Counters {
	return Counters{
		Packets: m.packets.Load(), Bytes: m.bytes.Load(),
		Delivered: m.delivered.Load(), DeliveredBytes: m.deliveredBytes.Load(),
		Judged: m.judged.Load(), Lost: m.lost.Load(), Overflowed: m.overflowed.Load(),
		Injected: m.injected.Load(), Failed: m.failed.Load(),
		LateMean: time.Duration(m.late.Load() / max(1, m.scheduled.Load())),
		LateMax:  time.Duration(m.lateMax.Load()),
	}
}
