package quic

import "slices"

// Visitors of the site are bounded together, as web servers bound theirs: when the
// places are taken, somebody who is there has to go. A stranger who opens many
// connections, or many requests without ever ending them, so costs a bounded amount
// of memory, and does not keep a client out that comes after him.
const (
	// fairStreams is how many open streams each visitor may have even if everyone
	// has as many. A browser has three of its own, and a request for each thing
	// that it asks for.
	fairStreams = 16
	// maxStreams bounds the open streams of all visitors. One with the head of a
	// request that never ends holds 14 kB (measured).
	maxStreams = fairStreams * maxVisitors
)

// enter counts a visitor until what it returns is called, or it has a carrier.
func (l *Listener) enter(v *visitor) (leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.visitors = append(l.visitors, v)
	if p, ok := v.conn.Context().Value(placeKey{}).(*place); ok {
		p.visitor = v
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.forget(v)
	}
}

// forget is called under l.mu.
func (l *Listener) forget(v *visitor) {
	if i := slices.Index(l.visitors, v); i >= 0 {
		l.visitors = slices.Delete(l.visitors, i, i+1)
	}
}

// opened counts one more stream of a visitor, who says when it is done.
func (l *Listener) opened(v *visitor) {
	v.streams.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	sum := int64(0)
	for _, v := range l.visitors {
		sum += v.streams.Load()
	}
	if sum > maxStreams {
		l.dropOne()
	}
}

// makeRoom drops a visitor for the sake of one who comes. It reports false if there
// is none.
func (l *Listener) makeRoom() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropOne()
}

// dropOne drops the visitor with the most streams above fairStreams, or if nobody
// has so many the one who came first. It is called under l.mu.
func (l *Listener) dropOne() bool {
	if len(l.visitors) == 0 {
		return false
	}
	gone, most := l.visitors[0], int64(fairStreams)
	for _, v := range l.visitors {
		if n := v.streams.Load(); n > most {
			gone, most = v, n
		}
	}
	l.forget(gone)
	gone.drop()
	return true
}
