package censor

import (
	"container/heap"
	"time"
)

// packet is a buffer and what is in it.
type packet struct {
	due    time.Duration
	serial uint64 // orders packets that are due together
	size   int
	judged bool
	data   []byte
}

func (p *packet) bytes() []byte { return p.data[:p.size] }

// maxFlight bounds the packets of one direction: 1.5 s of 500 Mbit/s.
const maxFlight = 1 << 16

// flight holds the packets that are under way, and buffers for more.
type flight struct {
	mtu    int
	queue  dueQueue
	idle   []*packet
	serial uint64
}

func (f *flight) get() *packet {
	if n := len(f.idle); n > 0 {
		p := f.idle[n-1]
		f.idle = f.idle[:n-1]
		return p
	}
	return &packet{data: make([]byte, f.mtu)}
}

func (f *flight) put(p *packet) {
	p.judged = false
	f.idle = append(f.idle, p)
}

// full reports that no more packets may take off.
func (f *flight) full() bool { return len(f.queue) >= maxFlight }

func (f *flight) push(p *packet, due time.Duration) {
	f.serial++
	p.due, p.serial = due, f.serial
	heap.Push(&f.queue, p)
}

// next is when the next packet is due.
func (f *flight) next() (due time.Duration, any bool) {
	if len(f.queue) == 0 {
		return 0, false
	}
	return f.queue[0].due, true
}

// land appends the packets that are due to batch, within its capacity.
func (f *flight) land(batch []*packet, now time.Duration) []*packet {
	for len(batch) < cap(batch) && len(f.queue) > 0 && f.queue[0].due <= now {
		batch = append(batch, heap.Pop(&f.queue).(*packet))
	}
	return batch
}

// dueQueue is a heap by time.
type dueQueue []*packet

func (q dueQueue) Len() int { return len(q) }
func (q dueQueue) Less(i, j int) bool {
	return q[i].due < q[j].due || q[i].due == q[j].due && q[i].serial < q[j].serial
}
func (q dueQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *dueQueue) Push(x any)   { *q = append(*q, x.(*packet)) }
func (q *dueQueue) Pop() any {
	last := len(*q) - 1
	p := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return p
}
