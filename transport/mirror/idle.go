package mirror

import (
	"container/list"
	"sync"
)

// idle are the visits that wait for nothing but their visitors, the longest silent in
// front: the visitor has said nothing yet, or the cover spoke last, and not for the
// first time, because then the handshake is not over. Those are what nginx calls
// reusable and ends when it runs out of worker_connections, the oldest first. Clients'
// visits are not among them.
type idle struct {
	mu      sync.Mutex
	visits  list.List
	leaving int // visits that were ended to make room, and are not over yet
}

// place is a link's in the list.
type place struct {
	at      *list.Element // nil if it is not in there
	retired bool          // it will not be any more
	leaving bool          // to make room
	spoke   bool          // the visitor did last
	turns   int           // how often the cover has answered
}

// add puts k at the end, whatever was said.
func (i *idle) add(k *link) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.put(k)
}

func (i *idle) put(k *link) {
	switch {
	case k.idle.retired:
	case k.idle.at == nil:
		k.idle.at = i.visits.PushBack(k)
	default:
		i.visits.MoveToBack(k.idle.at)
	}
}

// spoke notes that the visitor said something.
func (i *idle) spoke(k *link) {
	i.mu.Lock()
	defer i.mu.Unlock()
	k.idle.spoke = true
	i.drop(k)
}

// answering notes that the cover has spoken, before that is passed on: the visitor may
// speak again as soon as it is.
func (i *idle) answering(k *link) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if k.idle.spoke {
		k.idle.spoke = false
		k.idle.turns++
	}
}

// answered notes that the visitor's kernel has taken what the cover said.
func (i *idle) answered(k *link) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if k.idle.turns > 1 && !k.idle.spoke {
		i.put(k)
	}
}

// retire takes k out for good: it is a client's, or over.
func (i *idle) retire(k *link) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.drop(k)
	k.idle.retired = true
	if k.idle.leaving {
		k.idle.leaving = false
		i.leaving--
	}
}

func (i *idle) drop(k *link) {
	if k.idle.at != nil {
		i.visits.Remove(k.idle.at)
		k.idle.at = nil
	}
}

// mostReused is how many visits are ended at once, as nginx does.
const mostReused = 32

// reuse ends the visits that have been silent longest, at most an eighth of them, and
// reports whether there will be room.
func (i *idle) reuse() bool {
	i.mu.Lock()
	var end []*link
	for range min(mostReused, (i.visits.Len()+7)/8) {
		k := i.visits.Front().Value.(*link)
		i.drop(k)
		k.idle.retired, k.idle.leaving = true, true
		i.leaving++
		end = append(end, k)
	}
	room := i.leaving > 0
	i.mu.Unlock()
	for _, k := range end {
		k.leave()
	}
	return room
}
