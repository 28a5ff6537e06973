package control

import (
	"errors"

	"golang.org/x/sys/windows"
)

// maxPath is what sun_path holds beside its NUL (afunix.h).
const maxPath = 107

// shorten checks that the path fits into sun_path.
func shorten(path string) (short string, release func(), err error) {
	if len(path) > maxPath {
		return "", nil, tooLong(path)
	}
	return path, func() {}, nil
}

// refused reports other forms of "nobody listens" than the common ones.
func refused(err error) bool {
	return errors.Is(err, windows.WSAECONNREFUSED)
}
