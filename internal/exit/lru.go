package exit

import "container/list"

// lru is a map that holds at most max entries and forgets the least recently
// used one first. It is not safe for concurrent use.
type lru[K comparable, V any] struct {
	max   int
	order list.List // of pair[K, V], most recently used first
	items map[K]*list.Element
}

type pair[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](limit int) *lru[K, V] {
	return &lru[K, V]{max: limit, items: map[K]*list.Element{}}
}

func (l *lru[K, V]) get(k K) (v V, ok bool) {
	el, ok := l.items[k]
	if !ok {
		return v, false
	}
	l.order.MoveToFront(el)
	return el.Value.(*pair[K, V]).value, true
}

func (l *lru[K, V]) put(k K, v V) {
	if el, ok := l.items[k]; ok {
		el.Value.(*pair[K, V]).value = v
		l.order.MoveToFront(el)
		return
	}
	for len(l.items) >= l.max {
		oldest := l.order.Back()
		delete(l.items, oldest.Value.(*pair[K, V]).key)
		l.order.Remove(oldest)
	}
	l.items[k] = l.order.PushFront(&pair[K, V]{k, v})
}
