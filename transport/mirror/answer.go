package mirror

import (
	"context"
	"math/rand/v2"
	"net/http"
	"time"

	"golang.org/x/net/http2/hpack"

	"busel/transport"
)

// Answer is how long the cover's answer is to a browser that opens its first page. The relay's reply stands for it. The zero value is not known.
type Answer struct {
	size int    // of a record of it, as in its header
	date string // the Date field in it; empty: there was none
}

// maxAnswer is the longest record that a reply is made as long as: what is beyond costs
// a slow network seconds, and one that counts packets (row R1) a part of all it grants.
const maxAnswer = 4096

// replyMin and replyMax are the lengths of a reply in bytes if the answer is not known:
// about what a site answers to a first request.
const replyMin, replyMax = 312, 1456

// Size is the length of a record that stands for the answer now: dates are not all of one
// length in HPACK's code.
func (a Answer) Size(now time.Time) int {
	if a.size == 0 {
		return replyMin + rand.IntN(replyMax-replyMin)
	}
	if a.date == "" {
		return a.size
	}
	return a.size + int(hpack.HuffmanEncodeLength(now.UTC().Format(http.TimeFormat))) - int(hpack.HuffmanEncodeLength(a.date))
}

// LearnAnswer opens the cover's first page, as a client's browser would, and learns how
// long the answer is. The zero value without an error: it cannot be told, or is too long
// to be imitated.
func LearnAnswer(ctx context.Context, network transport.Network, cover Cover) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, learnTime)
	defer cancel()
	g, err := dialGuest(ctx, network, cover, Trust{})
	if err != nil {
		return Answer{}, err
	}
	defer g.close()
	if err := g.ask(); err != nil {
		return Answer{}, bare(err)
	}
	if _, err := g.answer(ctx); err != nil {
		return Answer{}, bare(err)
	}
	last := g.visit.last.Load()
	if last == nil {
		return Answer{}, nil // HTTP/1.1
	}
	// Servers put SETTINGS, header and body into as few records as happen to be ready
	// together. A reply stands for header and body in one.
	if size := last.size + 1 + tagLen; size <= maxAnswer {
		return Answer{size, last.date}, nil
	}
	return Answer{}, nil
}
