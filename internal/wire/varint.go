package wire

import "encoding/binary"

// MaxVarint is the largest integer on the wire: 2^62-1 (RFC 9000, section 16).
const MaxVarint = 1<<62 - 1

// AppendVarint appends v, at most [MaxVarint], in its shortest form. A larger
// value panics: callers check what they did not compute themselves.
func AppendVarint(b []byte, v uint64) []byte {
	switch {
	case v < 1<<6:
		return append(b, byte(v))
	case v < 1<<14:
		return binary.BigEndian.AppendUint16(b, uint16(v)|1<<14)
	case v < 1<<30:
		return binary.BigEndian.AppendUint32(b, uint32(v)|2<<30)
	case v <= MaxVarint:
		return binary.BigEndian.AppendUint64(b, v|3<<62)
	}
	panic("wire: varint out of range")
}

// VarintLen is the length of v's shortest form: 1, 2, 4 or 8 bytes.
func VarintLen(v uint64) int {
	switch {
	case v < 1<<6:
		return 1
	case v < 1<<14:
		return 2
	case v < 1<<30:
		return 4
	}
	return 8
}

// Varint reads a varint from the start of b and returns its length, which is 0
// with [ErrTruncated] if b ends inside it, or with [ErrNotMinimal].
func Varint(b []byte) (v uint64, n int, err error) {
	if len(b) == 0 {
		return 0, 0, ErrTruncated
	}
	n = 1 << (b[0] >> 6)
	if len(b) < n {
		return 0, 0, ErrTruncated
	}
	switch n {
	case 1:
		v = uint64(b[0])
	case 2:
		v = uint64(binary.BigEndian.Uint16(b)) & (1<<14 - 1)
	case 4:
		v = uint64(binary.BigEndian.Uint32(b)) & (1<<30 - 1)
	case 8:
		v = binary.BigEndian.Uint64(b) & MaxVarint
	}
	if VarintLen(v) != n {
		return 0, 0, ErrNotMinimal
	}
	return v, n, nil
}
