package packet

import (
	"errors"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

var errNotDNS = errors.New("not a DNS query")

// Types of DNS records that are forged.
const (
	TypeA    = uint16(dnsmessage.TypeA)
	TypeAAAA = uint16(dnsmessage.TypeAAAA)
)

// A Question is what a DNS query asks.
type Question struct {
	Name string // in lower case, without the last dot
	Type uint16
}

// ParseQuestion reads the first question of a query; servers answer no other.
func ParseQuestion(message []byte) (Question, error) {
	_, q, err := parseQuery(message)
	if err != nil {
		return Question{}, errNotDNS
	}
	return Question{strings.ToLower(strings.TrimSuffix(q.Name.String(), ".")), uint16(q.Type)}, nil
}

func parseQuery(message []byte) (dnsmessage.Header, dnsmessage.Question, error) {
	var p dnsmessage.Parser
	h, err := p.Start(message)
	if err != nil || h.Response || h.OpCode != 0 {
		return h, dnsmessage.Question{}, errNotDNS
	}
	q, err := p.Question()
	return h, q, err
}

// Answer forges the answer to a query: those of the addresses that are of the
// type asked for, maybe none.
func Answer(query []byte, addresses []netip.Addr, ttl uint32) ([]byte, error) {
	h, q, err := parseQuery(query)
	if err != nil {
		return nil, errNotDNS
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{
		ID: h.ID, Response: true, RecursionDesired: h.RecursionDesired, RecursionAvailable: true,
	})
	b.EnableCompression()
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if err := b.Question(q); err != nil {
		return nil, err
	}
	if err := b.StartAnswers(); err != nil {
		return nil, err
	}
	record := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: ttl}
	for _, a := range addresses {
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			err = b.AResource(record, dnsmessage.AResource{A: a.As4()})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			err = b.AAAAResource(record, dnsmessage.AAAAResource{AAAA: a.As16()})
		}
		if err != nil {
			return nil, err
		}
	}
	return b.Finish()
}
