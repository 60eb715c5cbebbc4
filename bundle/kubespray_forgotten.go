package bundle

func (k *kubespray) forgottenFiles()        {}
func (k *kubespray) forgottenImages() error { return nil }
