package state

import "crypto/rand"

const (
	saltFile = "salt"
	saltLen  = 32
)

// Salt returns the installation's salt of 32 bytes, under which the client
// hashes what shall not be read from its files, such as the names of networks.
// It is drawn when it is not there, or is no good: what was hashed under the old
// one is forgotten then.
func (d *Dir) Salt() (salt []byte, err error) {
	err = d.change(func() error {
		held, err := d.ReadSecret(saltFile)
		if err == nil && len(held) == saltLen {
			salt = held
			return nil
		}
		salt = make([]byte, saltLen)
		_, _ = rand.Read(salt) // it never fails
		return d.put(saltFile, salt)
	})
	if err != nil {
		return nil, err
	}
	return salt, nil
}
