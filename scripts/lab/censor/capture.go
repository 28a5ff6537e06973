package censor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"busel/scripts/lab/censor/rule"
)

// event is what was done with a packet.
type event uint8

const (
	hasPassed     event = iota // the judge
	wasJudged                  // dropped by the judge
	wasLost                    // dropped by the link, up after and down before the judge
	hasOverflowed              // dropped by the link's full queue, likewise
	wasInjected
	events // how many there are
)

// interfaceNames are those of the file, by direction and event.
var interfaceNames = [2 * events]string{
	"up", "up-judged", "up-lost", "up-overflowed", "up-injected",
	"down", "down-judged", "down-lost", "down-overflowed", "down-injected",
}

// Capture writes packets to a pcapng file (draft-ietf-opsawg-pcapng). What was
// done with a packet is the name of its interface: "up" and "down" passed the
// judge, "up-judged" was dropped by it, "up-lost" and "up-overflowed" by the link,
// and "up-injected" came from the judge; in tshark:
//
//	tshark -r FILE -T fields -e frame.interface_name -e _ws.col.Info
//	tshark -r FILE -Y 'frame.interface_name == "down-judged"'
//
// A packet that is lost on its way up is there twice, as "up" before. A file has
// a bound; what does not fit is only counted.
type Capture struct {
	file  *os.File
	limit int64

	mu      sync.Mutex
	pending []byte // blocks that the writer has not taken
	size    int64  // of the file when all is written
	missed  uint64
	closed  bool
	err     error

	more  chan struct{} // of capacity 1: there is something pending
	ended chan struct{}
}

// DefaultCaptureLimit is in bytes.
const DefaultCaptureLimit = 256 << 20

// StartCapture makes the file, of at most limit bytes, and starts the goroutine
// that writes it, which Close ends. limit 0 means [DefaultCaptureLimit].
func StartCapture(path string, limit int64) (*Capture, error) {
	if limit == 0 {
		limit = DefaultCaptureLimit
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	c := &Capture{
		file: file, limit: limit, pending: captureHeader(),
		more: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	c.size = int64(len(c.pending))
	c.more <- struct{}{}
	go c.write()
	return c, nil
}

// Path is the name of the file.
func (c *Capture) Path() string { return c.file.Name() }

// Close writes what is pending and closes the file. missed is how many packets
// did not fit.
func (c *Capture) Close() (missed uint64, err error) {
	c.mu.Lock()
	first := !c.closed
	c.closed = true
	c.mu.Unlock()
	if first {
		close(c.more)
	}
	<-c.ended
	return c.missed, c.err
}

// record appends a packet. The file is written elsewhere, so that packets do
// not wait for it.
func (c *Capture) record(d rule.Direction, what event, p []byte) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	before := len(c.pending)
	if c.size+int64(blockSize(len(p))) > c.limit || before > maxPending {
		c.missed++
		return
	}
	c.pending = appendPacket(c.pending, uint32(d)*uint32(events)+uint32(what), now, p)
	c.size += int64(len(c.pending) - before)
	select {
	case c.more <- struct{}{}:
	default:
	}
}

// maxPending is what may wait for the disk, in bytes.
const maxPending = 32 << 20

func (c *Capture) write() {
	defer close(c.ended)
	var block []byte
	var err error
	for open := true; open; {
		_, open = <-c.more
		c.mu.Lock()
		block, c.pending = c.pending, block[:0]
		c.mu.Unlock()
		if err == nil {
			_, err = c.file.Write(block)
		}
	}
	c.err = errors.Join(err, c.file.Close())
}

// Numbers of draft-ietf-opsawg-pcapng sections 4.1 to 4.3.
const (
	sectionHeaderBlock  = 0x0a0d0d0a
	interfaceBlock      = 1
	enhancedPacketBlock = 6
	byteOrderMagic      = 0x1a2b3c4d
	linkTypeRaw         = 101 // IPv4 or IPv6, without a link header
	optionName          = 2   // if_name
	optionResolution    = 9   // if_tsresol
)

func captureHeader() []byte {
	b := appendBlock(nil, sectionHeaderBlock, func(b []byte) []byte {
		b = binary.LittleEndian.AppendUint32(b, byteOrderMagic)
		b = binary.LittleEndian.AppendUint32(b, 1) // version 1.0
		return binary.LittleEndian.AppendUint64(b, 1<<64-1)
	})
	for _, name := range interfaceNames {
		b = appendBlock(b, interfaceBlock, func(b []byte) []byte {
			b = binary.LittleEndian.AppendUint32(b, linkTypeRaw)
			b = binary.LittleEndian.AppendUint32(b, 0) // no snapshot length
			b = appendOption(b, optionName, []byte(name))
			b = appendOption(b, optionResolution, []byte{9}) // 10^-9 s
			return binary.LittleEndian.AppendUint32(b, 0)    // end of options
		})
	}
	return b
}

// packetOverhead is what a packet's block has beside it, in bytes.
const packetOverhead = 12 + 20

func blockSize(packet int) int { return packetOverhead + (packet+3)/4*4 }

func appendPacket(b []byte, iface uint32, at time.Time, p []byte) []byte {
	return appendBlock(b, enhancedPacketBlock, func(b []byte) []byte {
		nanos := uint64(at.UnixNano())
		b = binary.LittleEndian.AppendUint32(b, iface)
		b = binary.LittleEndian.AppendUint32(b, uint32(nanos>>32))
		b = binary.LittleEndian.AppendUint32(b, uint32(nanos))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(p)))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(p)))
		return appendPadded(b, p)
	})
}

// appendBlock frames a body with its type and, twice, its length.
func appendBlock(b []byte, kind uint32, body func([]byte) []byte) []byte {
	begin := len(b)
	b = binary.LittleEndian.AppendUint32(b, kind)
	b = body(append(b, 0, 0, 0, 0))
	length := uint32(len(b) - begin + 4)
	binary.LittleEndian.PutUint32(b[begin+4:], length)
	return binary.LittleEndian.AppendUint32(b, length)
}

func appendOption(b []byte, code uint16, value []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, code)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	return appendPadded(b, value)
}

// appendPadded appends p and zeros up to 32 bits.
func appendPadded(b, p []byte) []byte {
	b = append(b, p...)
	for n := len(p); n%4 != 0; n++ {
		b = append(b, 0)
	}
	return b
}
