#!/bin/bash
# A script of this shape lists the images that kubeadm pulls.
KUBE_IMAGES="kube-one kube-two"
for i in $KUBE_IMAGES; do
    echo "{{ kube_image_repo }}/$i:v{{ kube_version }}" >> images.list.template
done
