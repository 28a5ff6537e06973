package session

import "fmt"

// Dump describes what is left in a session.
func (s *Server) Dump() string { return s.c.dump() }

// Dump describes what is left in a session.
func (cl *Client) Dump() string { return cl.c.dump() }

func (c *core) dump() (out string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.atts {
		out += fmt.Sprintf("carrier %d live=%v open=%v proven=%v state=%d suspect=%v shunned=%v inflight=%d ping=%v idle=%v\n", a.n, a.live, a.open, a.proven, a.state, a.suspect, a.shunned, a.inflight, a.pingOut, a.idle)
	}
	for s := range c.all {
		out += fmt.Sprintf("stream %d kind=%d shut=%v written=%d sent=%d limit=%d unsent=%d fin=%v sendDone=%v head=%v resend=%d queued=%v reset=%d stop=%d | rcvd=%d consumed=%d high=%d adv=%d final=%v/%d recvDone=%v eof=%v ooo=%d discard=%v ackDue=%v chore=%v query=%v\n",
			s.id, s.kind, s.shut, s.written, s.sent, s.limit, s.unsent, s.finQueued, s.sendDone, s.head != nil, len(s.resend), s.queued, s.reset, s.stop,
			s.rcvd, s.consumed, s.high, s.advertised, s.finalKnown, s.final, s.recvDone, s.eof, len(s.ooo), s.discard, s.ackDue, s.chore, s.query)
	}
	return out + fmt.Sprintf("sentSum=%d/%d recvSum=%d/%d consumed=%d unsent=%d stored=%d chores=%d lazy=%d answers=%d", c.sentSum, c.peerWindow, c.recvSum, c.advertised, c.consumed, c.unsent, c.stored, len(c.chores), len(c.lazy), len(c.answers))
}
