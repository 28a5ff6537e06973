package transport

import "context"

type reachedKey struct{}

// OnReached returns a context for [Dialer.Dial] that has f called as soon as
// somebody answers at the route's address: TCP is connected, or QUIC has shaken
// hands. Until then a dial has shown nothing to anyone but a knock, and its end
// may mean that there is no network at all. f is called once at most and must not
// block.
func OnReached(ctx context.Context, f func()) context.Context {
	return context.WithValue(ctx, reachedKey{}, f)
}

// Reached is what a dialer calls with its context when that happens.
func Reached(ctx context.Context) {
	if f, ok := ctx.Value(reachedKey{}).(func()); ok {
		f()
	}
}
