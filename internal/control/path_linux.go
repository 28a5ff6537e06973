package control

import (
	"fmt"
	"os"
	"path/filepath"
)

// maxPath is what sun_path holds beside its NUL (unix(7)).
const maxPath = 107

// shorten gives a path of the socket that fits into sun_path, valid until
// release: one through /proc/self/fd if the real one is too long.
func shorten(path string) (short string, release func(), err error) {
	if len(path) <= maxPath {
		return path, func() {}, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, err
	}
	short = fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	if len(short) > maxPath {
		dir.Close()
		return "", nil, tooLong(path)
	}
	return short, func() { dir.Close() }, nil
}

// refused reports other forms of "nobody listens" than the common ones.
func refused(error) bool { return false }
