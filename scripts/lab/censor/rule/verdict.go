package rule

import "time"

// Direction is the way that a packet takes.
type Direction uint8

const (
	Up   Direction = iota // client to world
	Down                  // world to client
)

// Injection is a raw IP packet that the censor sends in somebody's name.
type Injection struct {
	Packet []byte
	Toward Direction // Up delivers it to the world's side
	After  time.Duration
}

// Verdict is what becomes of a packet.
type Verdict struct {
	Drop   bool
	Inject []Injection
}
