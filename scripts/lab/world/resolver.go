package world

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Names are what a resolver knows: lower case, without a dot at the end.
type Names map[string][]netip.Addr

// nameTTL is in seconds.
const nameTTL = 60

// answer answers one query (RFC 1035): the addresses of known names, and that
// others do not exist.
func (n Names) answer(query []byte) ([]byte, error) {
	var p dnsmessage.Parser
	head, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	if head.Response {
		return nil, errors.New("no query")
	}
	addresses, known := n[strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))]
	reply := dnsmessage.Header{ID: head.ID, Response: true, RecursionDesired: head.RecursionDesired, RecursionAvailable: true}
	if !known {
		reply.RCode = dnsmessage.RCodeNameError
	}
	b := dnsmessage.NewBuilder(nil, reply)
	if err := errors.Join(b.StartQuestions(), b.Question(q), b.StartAnswers()); err != nil {
		return nil, err
	}
	about := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: nameTTL}
	for _, a := range addresses {
		switch {
		case q.Type == dnsmessage.TypeA && a.Is4():
			err = b.AResource(about, dnsmessage.AResource{A: a.As4()})
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			err = b.AAAAResource(about, dnsmessage.AAAAResource{AAAA: a.As16()})
		}
		if err != nil {
			return nil, fmt.Errorf("answer: %w", err)
		}
	}
	return b.Finish()
}

// serveUDP answers on c until it is closed.
func (n Names) serveUDP(c net.PacketConn) error {
	buf := make([]byte, 1500)
	for {
		size, from, err := c.ReadFrom(buf)
		if err != nil {
			return ended(err)
		}
		if reply, err := n.answer(buf[:size]); err == nil {
			if _, err := c.WriteTo(reply, from); err != nil {
				return ended(err)
			}
		}
	}
}

// queryTime bounds a connection that asks.
const queryTime = 10 * time.Second

// serveTCP answers on l until it is closed (RFC 1035 section 4.2.2).
func (n Names) serveTCP(l net.Listener) error {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return ended(err)
		}
		all.Go(func() {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(queryTime))
			for n.exchange(c) == nil {
			}
		})
	}
}

// exchange answers one query with its length before it.
func (n Names) exchange(c net.Conn) error {
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return err
	}
	query := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, query); err != nil {
		return err
	}
	reply, err := n.answer(query)
	if err != nil {
		return err
	}
	_, err = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
	return err
}

// ended is nil if the socket was closed, as it is meant to be.
func ended(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
