// Package vectors takes the fields of a TLS message apart (RFC 8446, section 3): big-endian
// integers, and vectors with their length in front.
package vectors

// Cursor takes fields off the front of B. OK goes false, for good, when B is too short.
type Cursor struct {
	B  []byte
	OK bool
}

// Of is a cursor over b, which is not copied.
func Of(b []byte) Cursor { return Cursor{b, true} }

// Take takes n bytes; nil if there are fewer.
func (c *Cursor) Take(n int) []byte {
	if !c.OK || len(c.B) < n {
		c.OK = false
		return nil
	}
	b := c.B[:n]
	c.B = c.B[n:]
	return b
}

// Uint takes an integer of n bytes, 1..4; 0 if there are fewer.
func (c *Cursor) Uint(n int) int {
	v := 0
	for _, x := range c.Take(n) {
		v = v<<8 | int(x)
	}
	return v
}

// Vector takes a vector whose length has n bytes.
func (c *Cursor) Vector(n int) Cursor {
	b := c.Take(c.Uint(n)) // first: it may clear OK
	return Cursor{b, c.OK}
}

// Whole reports whether all was taken and nothing was missing.
func (c *Cursor) Whole() bool { return c.OK && len(c.B) == 0 }
